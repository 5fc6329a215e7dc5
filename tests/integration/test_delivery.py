"""One event, sent over a real connection."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import webhook_http
from tasks.webhook_http import EXCHANGE_TIMEOUT_S, post, signature
from tests.fixtures.brokers import free_port
from tests.fixtures.listener import serve
from tests.fixtures.receiver import SECRET, Receiver, documented_verify

BODY = b'{"id":"evt_1","type":"wallet.low"}'


def headers(*secrets: str, at: float | None = None) -> dict[str, str]:
    return {"Billing-Signature": signature(secrets or (SECRET,), int(at or time.time()), BODY)}


def test_a_delivery_arrives_as_it_was_signed(receiver: Receiver) -> None:
    assert post(receiver.url + "?k=1", BODY, headers(), allow_private=True) is None
    assert (receiver.bodies, receiver.signed) == ([BODY], [True])
    assert receiver.headers[0]["Host"] == receiver.url.split("/")[2]
    assert receiver.headers[0]["Content-Type"] == "application/json"


# what is signed with, what is verified with, age in seconds, body, whether it holds
SIGNED = [
    ((SECRET,), SECRET, 0, BODY, True),
    (("another-key-than-that", SECRET), SECRET, 0, BODY, True),
    ((SECRET, "another-key-than-that"), "another-key-than-that", 0, BODY, True),
    ((SECRET,), "another-key-than-that", 0, BODY, False),
    ((SECRET,), SECRET, 0, BODY + b" ", False),
    ((SECRET,), SECRET, 400, BODY, False),
    ((SECRET,), SECRET, -400, BODY, False),
]


@pytest.mark.parametrize(("secrets", "known", "age_s", "body", "holds"), SIGNED)
def test_the_documented_code_verifies(
    secrets: tuple[str, ...], known: str, age_s: int, body: bytes, holds: bool
) -> None:
    header = headers(*secrets, at=time.time() - age_s)["Billing-Signature"]
    assert documented_verify()(body, header, known) is holds


@pytest.mark.parametrize("header", ["", "t=1", "v1=x", "t=x,v1=y", "t=1,t=2,v1=y", "nonsense"])
def test_the_documented_code_refuses_what_is_no_signature(header: str) -> None:
    assert documented_verify()(BODY, header, SECRET) is False


@pytest.mark.parametrize(("status", "error"), [(500, "HTTP 500"), (404, "HTTP 404"), (302, "HTTP 302: redirects")])
def test_what_is_not_2xx_was_not_taken(receiver: Receiver, status: int, error: str) -> None:
    receiver.statuses = [status]
    found = post(receiver.url, BODY, headers(), allow_private=True)
    assert found is not None
    assert found.startswith(error)
    assert len(receiver.bodies) == 1


def test_a_private_address_is_refused_before_anything_is_sent(receiver: Receiver) -> None:
    found = post(receiver.url, BODY, headers(), allow_private=False)
    assert found is not None
    assert "BILLING_WEBHOOK_ALLOW_PRIVATE" in found
    assert receiver.bodies == []


def test_nobody_there_is_an_error_in_words() -> None:
    found = post(f"http://127.0.0.1:{free_port()}/", BODY, headers(), allow_private=True)
    assert found is not None
    assert "ConnectionRefusedError" in found


def _drips(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    pause = threading.Event()
    while True:
        connection.sendall(b"X: y\r\n")
        pause.wait(0.1)


def _says_nothing(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def _speaks_in_tongues(connection: socket.socket) -> None:
    connection.sendall(b"220 mail.example ESMTP\r\n")
    _says_nothing(connection)


@pytest.mark.parametrize("answer", [_drips, _says_nothing, _speaks_in_tongues])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_receiver_that_does_not_answer_is_left_in_time(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket.socket], None], scheme: str
) -> None:
    monkeypatch.setattr(webhook_http, "EXCHANGE_TIMEOUT_S", 0.5)
    port, thread = serve(answer)
    begun = time.monotonic()
    found = post(f"{scheme}://127.0.0.1:{port}/", BODY, headers(), allow_private=True)
    # The status line said 200: it was taken, though headers had no end.
    assert (found is None) is (answer is _drips and scheme == "http")
    assert time.monotonic() - begun < EXCHANGE_TIMEOUT_S
    thread.join(10)


def test_an_answer_without_end_is_not_read() -> None:
    def floods(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65536)

    port, thread = serve(floods)
    assert post(f"http://127.0.0.1:{port}/", BODY, headers(), allow_private=True) is None
    thread.join(10)


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for `name`, signed by itself."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    options = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    subprocess.run(
        ("openssl", "req", *options, *subject, "-keyout", str(key), "-out", str(certificate)),
        check=True,
        capture_output=True,
    )
    return certificate, key


# name in the certificate, whether it is trusted, what is answered
CERTIFICATES = [
    ("localhost", True, None),
    ("localhost", False, "certificate verify failed"),
    ("other.example", True, "Hostname mismatch"),
]


@pytest.mark.parametrize(("name", "trusted", "problem"), CERTIFICATES)
def test_certificates_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, problem: str | None
) -> None:
    certificate, key = _certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answers(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            _says_nothing(secured)

    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    port, thread = serve(answers)
    found = post(f"https://localhost:{port}/", BODY, headers(), allow_private=True)
    assert found == problem if problem is None else problem in str(found)
    thread.join(10)
