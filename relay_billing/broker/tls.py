"""TLS to the broker: the server is verified unless the URL says otherwise. Redis and RabbitMQ have the same parameters.

By default, kombu does not verify a `rediss://` server at all, and does not check the host name of an `amqps://` server.
"""

import ssl
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from relay_billing.domain.errors import InvalidRequest

VERIFIED = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SCHEMES = ("rediss", "amqps")


def broker_tls(broker_url: str) -> tuple[str, dict[str, object]]:
    """The URL without its TLS parameters, and Celery's options for them: none unless it is `rediss://` or `amqps://`.

    `ssl_ca_certs=FILE` (unset: the system's authorities), `ssl_certfile=FILE` and `ssl_keyfile=FILE` (unset: the client
    shows no certificate), `ssl_check_hostname=false` (unset: checked), `ssl_cert_reqs=none` (unset: `required`).
    Raises InvalidRequest for another parameter or value, and for a missing file.
    """
    parts = urlsplit(broker_url)
    if parts.scheme not in SCHEMES:
        return broker_url, {}
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    given = {name: query.pop(name) for name in tuple(query) if name.startswith("ssl_")}
    files = {name: given.pop(name) for name in FILES if name in given}
    for name, file in files.items():
        if not Path(file).is_file():
            raise InvalidRequest("broker_url", f"{name}: there is no file {file}")
    reqs, checked = given.pop("ssl_cert_reqs", "required"), given.pop("ssl_check_hostname", "true")
    if reqs not in VERIFIED:
        raise InvalidRequest("broker_url", f"ssl_cert_reqs must be one of {', '.join(VERIFIED)}, got {reqs!r}")
    if checked not in ("true", "false"):
        raise InvalidRequest("broker_url", f"ssl_check_hostname must be true or false, got {checked!r}")
    if given:
        raise InvalidRequest("broker_url", f"knows no {', '.join(sorted(given))}")
    bare = urlunsplit(parts._replace(query=urlencode(query)))
    hostname = checked == "true" and reqs != "none"
    if parts.scheme == "rediss":
        return bare, {"broker_use_ssl": {"ssl_cert_reqs": VERIFIED[reqs], "ssl_check_hostname": hostname, **files}}
    options = {name.removeprefix("ssl_"): file for name, file in files.items()}
    # None stands for the host of the URL; without the key no name is checked.
    host = {"server_hostname": None} if hostname else {}
    return bare, {"broker_use_ssl": {"cert_reqs": VERIFIED[reqs], **options, **host}}
