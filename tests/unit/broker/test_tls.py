"""TLS parameters of the broker's and the database's URL reach the drivers, in the relay as in the worker."""

import ssl
from pathlib import Path

import pytest
from celery import Celery

from config.celery import options
from config.settings import Settings
from relay_billing.broker.options import broker_options
from relay_billing.broker.tls import broker_tls
from relay_billing.domain.errors import InvalidRequest
from relay_billing.store.async_drivers import async_engine_of
from relay_billing.store.drivers import engine_of

REQUIRED, NONE = ssl.CERT_REQUIRED, ssl.CERT_NONE
FILES = "ssl_ca_certs={0}/ca.pem&ssl_certfile={0}/client.pem&ssl_keyfile={0}/client.key"
GIVEN: list[tuple[str, dict[str, object]]] = [
    ("rediss://host/0", {"ssl_cert_reqs": REQUIRED, "ssl_check_hostname": True}),
    (
        f"rediss://:pw@host:6390/1?{FILES}",
        {
            "ssl_cert_reqs": REQUIRED,
            "ssl_check_hostname": True,
            "ssl_ca_certs": "{0}/ca.pem",
            "ssl_certfile": "{0}/client.pem",
            "ssl_keyfile": "{0}/client.key",
        },
    ),
    ("rediss://host/0?ssl_check_hostname=false", {"ssl_cert_reqs": REQUIRED, "ssl_check_hostname": False}),
    ("rediss://host/0?ssl_cert_reqs=none", {"ssl_cert_reqs": NONE, "ssl_check_hostname": False}),
    ("amqps://u:pw@host//", {"cert_reqs": REQUIRED, "server_hostname": None}),
    (
        f"amqps://u:pw@host//?{FILES}",
        {
            "cert_reqs": REQUIRED,
            "server_hostname": None,
            "ca_certs": "{0}/ca.pem",
            "certfile": "{0}/client.pem",
            "keyfile": "{0}/client.key",
        },
    ),
    ("amqps://host//?ssl_check_hostname=false", {"cert_reqs": REQUIRED}),
    ("amqps://host//?ssl_cert_reqs=none", {"cert_reqs": NONE}),
]
WRONG = [
    ("rediss://host/0?ssl_ca_certs=/nowhere/ca.pem", "there is no file /nowhere/ca.pem"),
    ("rediss://host/0?ssl_cert_reqs=maybe", "ssl_cert_reqs must be one of required, optional, none"),
    ("amqps://host//?ssl_check_hostname=perhaps", "ssl_check_hostname must be true or false"),
    ("rediss://host/0?ssl_min_version=1", "knows no ssl_min_version"),
]


@pytest.mark.parametrize(("url", "expected"), GIVEN)
def test_the_brokers_parameters_reach_kombu_in_relay_and_worker(
    url: str, expected: dict[str, object], tmp_path: Path
) -> None:
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).touch()
    url = url.format(tmp_path)
    wanted = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in expected.items()}
    for made in (options(Settings(broker_url=url, var_dir=str(tmp_path))), broker_options(url)):
        app = Celery("test", set_as_current=False)
        app.conf.update(made)
        for connection in (app.connection_for_read(), app.connection_for_write()):
            assert connection.ssl == wanted
        app.close()


def test_a_broker_without_tls_gets_none_of_it() -> None:
    for url in ("redis://host/0", "amqp://host//", "filesystem://folder"):
        assert broker_tls(url) == (url, {})


@pytest.mark.parametrize(("url", "why"), WRONG)
def test_a_wrong_parameter_is_refused_by_its_name(url: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refused:
        broker_options(url)
    assert refused.value.field == "broker_url"


def test_the_databases_parameters_reach_psycopg() -> None:
    url = "postgresql://u:pw@host/name?sslmode=verify-full&sslrootcert=/ca.pem"
    for engine in (engine_of(url), async_engine_of(url).sync_engine):
        _, given = engine.dialect.create_connect_args(engine.url)
        assert given["sslmode"] == "verify-full"
        assert given["sslrootcert"] == "/ca.pem"
