"""TLS from end to end: what a certificate of the right authority opens, and what any other one does not."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from relay_billing import BillingClient, migrations
from relay_billing.broker.options import broker_options
from relay_billing.store.drivers import engine_of
from tests.fixtures.accounts import given, wallet
from tests.fixtures.authority import Authority, authority
from tests.fixtures.brokers import MAKERS, Broker
from tests.fixtures.databases import empty
from tests.fixtures.waiting import until
from tests.fixtures.workers import Site, Spawn
from worker.patches.flower_pages import lengths

TIMEOUT_S = 60.0
WEALTH = 1_000


@dataclass(frozen=True, slots=True)
class Guarded:
    """A broker that speaks TLS alone."""

    broker: Broker
    bare: str
    """Its URL without parameters."""
    authority: Authority


@pytest.fixture(params=["redis", "rabbitmq"])
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    """Each broker in turn, with a certificate for 127.0.0.1."""
    made = authority(tmp_path / "authority")
    broker = MAKERS[request.param](tmp_path)
    assert broker.command is not None
    if request.param == "redis":
        broker.command = [broker.command[0], "--port", "0", "--tls-port", str(broker.port), "--bind", "127.0.0.1"]
        broker.command += ["--tls-cert-file", str(made.certificate), "--tls-key-file", str(made.key)]
        broker.command += ["--tls-ca-cert-file", str(made.ca), "--tls-auth-clients", "no", "--save", ""]
        bare = f"rediss://127.0.0.1:{broker.port}/0"
    else:
        (tmp_path / "node.conf").write_text(
            f"listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{broker.port}\n"
            f"ssl_options.cacertfile = {made.ca}\nssl_options.certfile = {made.certificate}\n"
            f"ssl_options.keyfile = {made.key}\nssl_options.verify = verify_none\n"
        )
        bare = f"amqps://guest:guest@127.0.0.1:{broker.port}//"
    broker.url = f"{bare}?ssl_ca_certs={made.ca}"
    broker.start()
    yield Guarded(broker, bare, made)
    broker.stop()


def app_of(url: str) -> Celery:
    made = Celery("somebody", set_as_current=False)
    made.conf.update(broker_options(url))
    return made


def refusal(url: str) -> str:
    """What a connection fails with."""
    app = app_of(url)
    try:
        with (
            app.connection_for_write() as connection,
            pytest.raises((ssl.SSLError, *connection.connection_errors)) as no,
        ):
            connection.channel()
    finally:
        app.close()
    return str(no.value)


def test_a_session_is_settled_over_tls(
    guarded: Guarded, request: pytest.FixtureRequest, tmp_path: Path, spawn: Spawn
) -> None:
    url = empty("postgresql", request)
    engine = engine_of(url)
    with engine.begin() as connection:
        migrations.upgrade(connection)
    given(engine, user=[{"id": 1, "quota": WEALTH}], token=[{"id": 1, "user_id": 1, "remain_quota": WEALTH}])
    client = BillingClient(url, guarded.broker.url)
    client.pre_consume(request_id="r1", user_id=1, token_id=1, quota=100)
    client.settle("r1", 60)
    app = app_of(guarded.broker.url)
    until(lambda: lengths(app, ["billing"])[0]["messages"] == 1, TIMEOUT_S, "the job in the queue")
    app.close()
    Site(engine, url, guarded.broker, tmp_path, spawn).worker(intent_grace=3600, sweep_interval=3600)
    until(lambda: wallet(engine) == WEALTH - 60, TIMEOUT_S, "the job applied")
    client.close()
    engine.dispose()


def test_a_broker_whose_certificate_can_not_be_verified_is_refused(guarded: Guarded, tmp_path: Path) -> None:
    other = authority(tmp_path / "other")
    for url in (guarded.bare, f"{guarded.bare}?ssl_ca_certs={other.ca}"):
        assert "certificate verify failed" in refusal(url).lower().replace("_", " "), url
    by_name = guarded.broker.url.replace("127.0.0.1", "localhost")
    if guarded.broker.name == "redis":
        # kombu gives localhost of an AMQP URL another name, the one that is in the certificate.
        assert "hostname mismatch" in refusal(by_name).lower()
    unchecked = f"{guarded.bare}?ssl_cert_reqs=none"
    app = app_of(unchecked)
    with app.connection_for_write() as connection:
        connection.channel().close()
    app.close()


def test_a_client_without_tls_gets_nothing_from_it(guarded: Guarded) -> None:
    plain = guarded.bare.replace("rediss://", "redis://").replace("amqps://", "amqp://")
    assert refusal(plain)


def test_a_database_whose_certificate_can_not_be_verified_is_refused(postgresql_url: str, tmp_path: Path) -> None:
    other = authority(tmp_path / "other")
    query = {"sslmode": "verify-full", "sslrootcert": str(other.ca)}
    engine = engine_of(make_url(postgresql_url).set(query=query).render_as_string(hide_password=False))
    with pytest.raises(OperationalError, match=r"certificate verify failed|does not support SSL"):
        engine.connect()
    engine.dispose()
