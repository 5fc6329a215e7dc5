"""Parses database URLs: SQLAlchemy's, and libpq's form with several hosts."""

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from relay_billing.domain.errors import InvalidRequest

_SEVERAL_HOSTS = re.compile(r"^(?P<user>[\w.+-]+://(?:[^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<rest>[/?].*)?$")
_HOST = re.compile(r"^\[?(?P<name>(?<=\[)[0-9A-Fa-f:.%\w]+(?=\])|[^:\[\]]*)\]?(?::(?P<port>\d+))?$")
DEFAULT_PORT = "5432"


def parsed(database_url: str) -> URL:
    """The parsed URL. Several hosts are written as for libpq: `h1:5432,h2:5433` (port unset: 5432).

    Raises InvalidRequest for an invalid URL.
    """
    try:
        several = _SEVERAL_HOSTS.match(database_url)
        if several is None:
            return make_url(database_url)
        hosts = [_HOST.match(each) for each in several["hosts"].split(",")]
        if None in hosts:
            raise ValueError(several["hosts"])
        url = make_url(several["user"] + (several["rest"] or ""))
        names = ",".join(each["name"] for each in hosts if each is not None)
        ports = ",".join(each["port"] or DEFAULT_PORT for each in hosts if each is not None)
        if {"host", "port"} & set(url.query):
            raise ValueError("hosts in two places")
        return url.update_query_dict({"host": names, "port": ports})
    except (ArgumentError, ValueError) as error:
        raise InvalidRequest("database_url", "is not a database URL, as postgresql://user@host/name") from error
