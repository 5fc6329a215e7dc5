"""A database that is only read."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Executable, Row, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from config.refusal import Refusal
from relay_billing.domain.errors import InvalidRequest
from relay_billing.store.drivers import shown
from relay_billing.store.failures import cause_of
from relay_billing.store.urls import parsed
from worker.doctor.engines import Kind, reading_engine

T = TypeVar("T")

_VERSION = {"sqlite": "SELECT sqlite_version()", "postgresql": "SHOW server_version", "mysql": "SELECT VERSION()"}
"""How SQLAlchemy's dialects are asked for their server's version."""
_LOCAL = ("", "localhost", "127.0.0.1", "::1")


_KINDS = {"sqlite": Kind.SQLITE, "postgresql": Kind.POSTGRESQL, "mysql": Kind.MYSQL}


class TookTooLong(Exception):
    """A statement took more than its time, and was ended."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An open database. Every look is a read-only transaction of its own, and bounded in time."""

    engine: Engine
    url: URL
    kind: Kind
    version: tuple[int, ...]
    statement_s: float
    """Seconds that a statement may take."""

    @property
    def local(self) -> bool:
        """Whether the URL names this host."""
        host = self.url.host or str(self.url.query.get("host", ""))
        return host in _LOCAL or host.startswith("/")

    @property
    def mysql(self) -> bool:
        """Whether it is MySQL or MariaDB."""
        return self.kind in (Kind.MYSQL, Kind.MARIADB)

    def look(self, work: Callable[[Connection], T]) -> T:
        """What `work` reads, in one transaction. Raises TookTooLong, or SQLAlchemy's errors."""
        began = time.monotonic()
        try:
            with self.engine.connect() as connection:
                return work(connection)
        except DBAPIError as error:
            if time.monotonic() - began >= self.statement_s:
                raise TookTooLong(f"took over {self.statement_s:g} s") from error
            raise

    def rows(self, statement: Executable) -> Sequence[Row[Any]]:
        """All rows of one statement. Raises as `look`."""
        return self.look(lambda connection: connection.execute(statement).all())

    def value(self, statement: str) -> str:
        """The only value of a statement, as text. Raises as `look`."""
        return str(self.look(lambda connection: connection.execute(text(statement)).scalar_one()))


@contextmanager
def opened(database_url: str, statement_s: float) -> Iterator[Reading]:
    """A database to look at; a statement may take `statement_s` seconds. Raises Refusal where it can't be reached."""
    try:
        url, engine = parsed(database_url), reading_engine(database_url, statement_s)
    except InvalidRequest as error:
        raise Refusal(f"BILLING_{error.field.upper()}: {error.problem}") from None
    except ModuleNotFoundError as error:
        raise Refusal(f"BILLING_DATABASE_URL: its driver is not installed: {error}") from None
    try:
        with engine.connect() as connection:
            version = str(connection.exec_driver_sql(_VERSION[engine.dialect.name]).scalar_one())
    except SQLAlchemyError as error:
        engine.dispose()
        raise Refusal(f"the database {shown(database_url)} can't be reached: {cause_of(error)}") from None
    name = Kind.MARIADB if "MariaDB" in version else _KINDS[engine.dialect.name]
    numbers = tuple(int(each) for each in re.findall(r"\d+", re.split(r"[^\d.]", version)[0]))
    try:
        yield Reading(engine, url, name, numbers, statement_s)
    finally:
        engine.dispose()
