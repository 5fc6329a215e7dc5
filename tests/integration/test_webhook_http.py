"""Where a delivery goes, whom it trusts, how long it waits, and what it tells of it."""

import logging
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from relay_billing.domain.sending import FIRST_PAUSE_S, JITTER
from tasks import webhook_http
from tasks.webhook_http import CONNECT_TIMEOUT_S, EXCHANGE_TIMEOUT_S, GRACE_S, MAX_ADDRESSES, post, signature
from tests.fixtures.absent import absent
from tests.fixtures.authority import Authority, authority
from tests.fixtures.brokers import free_port
from tests.fixtures.listener import Answer, serve
from tests.fixtures.receiver import SECRET, Receiver

BODY = b'{"id":"evt_1","type":"wallet.low"}'
NAMES = "DNS:receiver.example,DNS:localhost,IP:::1"
CUTS = 20
"""Enough for a byte to come while a connection is cut."""
PROMPTLY_S = 3.0
"""Where a time-out is set to half a second: without it the answer takes longer, or for ever."""

GETADDRINFO = socket.getaddrinfo
send = partial(post, body=BODY, allow_private=True)


@pytest.fixture
def headers() -> dict[str, str]:
    return {"Billing-Signature": signature([SECRET], int(time.time()), BODY)}


@dataclass(slots=True)
class Resolver:
    """Stands in for DNS: knows the names that the test gives, and keeps those it was asked for."""

    known: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int | None = None
    """Where every connection ends, whatever port was asked for; None: at that one."""

    def getaddrinfo(self, host: str, port: int, *more: int, **named: int) -> object:
        """Resolve what is known; addresses resolve to themselves."""
        if host in self.known:
            self.asked.append(host)
        addresses = self.known.get(host, [host])
        return [entry for each in addresses for entry in GETADDRINFO(each, self.port or port, *more, **named)]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    return made


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("trusted"), NAMES)


def secured(made: Authority, answer: Answer, names: list[str | None] | None = None) -> Answer:
    """The same answer, over TLS; `names` gets the name that the client asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    if names is not None:
        context.sni_callback = lambda _, name, __: names.append(name)

    def answers(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            answer(encrypted)

    return answers


def says(*parts: bytes, pause_s: float = 0.0) -> Answer:
    """Take the request and say the parts, the last one again and again."""

    def answers(connection: socket.socket) -> None:
        connection.recv(65536)
        pause = threading.Event()
        for part in parts[:-1]:
            connection.sendall(part)
            pause.wait(pause_s)
        while True:
            connection.sendall(parts[-1])
            pause.wait(pause_s or 0.1)

    return answers


def drips(text: bytes, *first: bytes) -> Answer:
    """Say what comes first, then the text, one byte after the other."""
    return says(*first, *(bytes([each]) for each in text), b"x", pause_s=0.1)


def takes(requests: list[bytes]) -> Answer:
    """Take one request, and say 204."""

    def answers(connection: socket.socket) -> None:
        request = b""
        while not request.endswith(BODY):
            request += connection.recv(65536)
        requests.append(request)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    return answers


def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_called(
    receiver: Receiver, headers: dict[str, str], resolver: Resolver
) -> None:
    resolver.known = {"receiver.example": ["127.0.0.1"]}
    assert send(receiver.url.replace("127.0.0.1", "receiver.example"), headers=headers) is None
    assert (resolver.asked, receiver.bodies) == (["receiver.example"], [BODY])


# URL, header `Host`, name in the TLS greeting
HOSTS = [
    ("http://receiver.example", "receiver.example", None),
    ("http://receiver.example:80/", "receiver.example", None),
    ("http://Receiver.Example:8080/", "receiver.example:8080", None),
    ("http://receiver.example:443/", "receiver.example:443", None),
    ("http://[::1]/", "[::1]", None),
    ("http://[::1]:8080/", "[::1]:8080", None),
    ("https://receiver.example/", "receiver.example", "receiver.example"),
    ("https://receiver.example:443/", "receiver.example", "receiver.example"),
    ("https://receiver.example:80/", "receiver.example:80", "receiver.example"),
    ("https://[::1]:8443/", "[::1]:8443", None),
]


@pytest.mark.parametrize(("url", "host", "name"), HOSTS)
def test_the_receiver_is_called_by_its_own_name(
    url: str,
    host: str,
    name: str | None,
    headers: dict[str, str],
    resolver: Resolver,
    trusted: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.ca))
    requests: list[bytes] = []
    names: list[str | None] = []
    secure = url.startswith("https")
    resolver.port, thread = serve(secured(trusted, takes(requests), names) if secure else takes(requests))
    resolver.known = {"receiver.example": ["127.0.0.1"], "::1": ["127.0.0.1"]}
    assert send(url, headers=headers) is None
    thread.join(10)
    assert f"\r\nHost: {host}\r\n".encode() in requests[0]
    assert requests[0].lower().count(b"\r\nhost:") == 1
    assert requests[0].startswith(b"POST / HTTP/1.1\r\n")
    assert names == ([name] if secure else [])


def test_an_address_in_the_url_may_be_an_ipv6_one(headers: dict[str, str]) -> None:
    requests: list[bytes] = []
    try:
        port, thread = serve(takes(requests), "::1")
    except OSError as error:
        absent(f"IPv6: {error}")
    assert send(f"http://[::1]:{port}/hook?k=1", headers=headers) is None
    thread.join(10)
    assert requests[0].startswith(b"POST /hook?k=1 HTTP/1.1\r\n")


# what the certificate is for, the URL's host
OTHERS = [("IP:127.0.0.1", "localhost"), ("DNS:localhost", "127.0.0.1"), ("DNS:receiver.example", "localhost")]


@pytest.mark.parametrize(("subject", "host"), OTHERS)
def test_a_certificate_must_be_for_the_host_of_the_url_not_for_the_address(
    subject: str, host: str, headers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = authority(tmp_path, subject)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
    requests: list[bytes] = []
    port, thread = serve(secured(made, takes(requests)))
    found = send(f"https://{host}:{port}/", headers=headers)
    thread.join(10)
    assert "certificate verify failed" in str(found)
    assert requests == []


def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert send(receiver.url, headers=headers) is None


# addresses of a host of which only 127.0.0.1 has a server, whether it is reached
TRIED = [
    (["127.0.0.1"], True),
    (["127.0.0.2", "127.0.0.1"], True),
    (["127.0.0.2", "127.0.0.3", "127.0.0.1"], False),
]


@pytest.mark.parametrize(("addresses", "reached"), TRIED)
def test_two_addresses_are_tried(
    addresses: list[str], reached: bool, receiver: Receiver, headers: dict[str, str], resolver: Resolver
) -> None:
    resolver.known = {"receiver.example": addresses}
    found = send(receiver.url.replace("127.0.0.1", "receiver.example"), headers=headers)
    assert (found is None, len(receiver.bodies)) == (reached, reached)
    assert reached or "ConnectionRefusedError" in str(found)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_address_that_took_the_connection_is_the_last_one_tried(
    scheme: str, headers: dict[str, str], resolver: Resolver
) -> None:
    port, thread = serve(lambda connection: None)
    with socket.create_server(("127.0.0.2", port)) as second:
        second.setblocking(False)
        resolver.known = {"receiver.example": ["127.0.0.1", "127.0.0.2"]}
        assert send(f"{scheme}://receiver.example:{port}/", headers=headers) is not None
        thread.join(10)
        with pytest.raises(BlockingIOError):
            second.accept()


STATUS = b"HTTP/1.1 200 OK\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# what is said, whether it is a time-out: where the status line was read the event was taken
SLOW = [
    (drips(b"X-Header: a-value-that-is-long", STATUS), False),
    (drips(STATUS), True),
    (says(CONTINUE), True),
]


@pytest.mark.parametrize(("answer", "late"), SLOW, ids=["a header", "the status", "100 Continue"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_receiver_that_trickles_is_left_in_time(
    answer: Answer,
    late: bool,
    scheme: str,
    headers: dict[str, str],
    trusted: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.ca))
    monkeypatch.setattr(webhook_http, "EXCHANGE_TIMEOUT_S", 0.5)
    port, thread = serve(secured(trusted, answer) if scheme == "https" else answer)
    begun = time.monotonic()
    found = send(f"{scheme}://localhost:{port}/", headers=headers)
    assert time.monotonic() - begun < PROMPTLY_S
    assert str(found).startswith("TimeoutError: no status within 0.5 s" if late else "None")
    thread.join(10)


def test_a_receiver_that_trickles_its_tls_greeting_is_left_in_time(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_http, "EXCHANGE_TIMEOUT_S", 0.5)
    port, thread = serve(drips(b"\x16\x03\x03\x3f\x00\x02" + b"\0" * 100))
    begun = time.monotonic()
    found = send(f"https://localhost:{port}/", headers=headers)
    assert time.monotonic() - begun < PROMPTLY_S
    assert "TimeoutError" in str(found)
    thread.join(10)


def test_a_status_that_was_read_counts_whatever_comes_at_the_moment_of_the_cut(
    headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_http, "EXCHANGE_TIMEOUT_S", 0.2)
    for _ in range(CUTS):
        port, thread = serve(says(STATUS + b"X-Header: ", b"y", pause_s=0.0001))
        assert send(f"http://127.0.0.1:{port}/", headers=headers) is None
        thread.join(10)


def test_nothing_is_read_once_the_cut_is_done() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours, (theirs, _) = socket.create_connection(listener.getsockname(), PROMPTLY_S), listener.accept()
    with ours, theirs:
        webhook_http._cut(ours)
        theirs.sendall(b"HTTP/1.1 100 Continue")
        with suppress(ConnectionResetError):
            assert ours.recv(1) == b""


def test_a_delivery_is_over_before_the_event_is_due_again() -> None:
    longest_s = MAX_ADDRESSES * CONNECT_TIMEOUT_S + EXCHANGE_TIMEOUT_S + GRACE_S
    assert longest_s < FIRST_PAUSE_S * (1 - JITTER)


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"Connection: close"])
def test_a_body_that_never_comes_is_not_waited_for(framing: bytes, headers: dict[str, str]) -> None:
    ended = threading.Event()

    def answers(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(STATUS + framing + b"\r\n\r\n")
        while connection.recv(65536):
            pass
        ended.set()

    port, thread = serve(answers)
    assert send(f"http://127.0.0.1:{port}/", headers=headers) is None
    thread.join(10)
    assert ended.is_set(), "the connection was closed"


def _echoes(connection: socket.socket) -> None:
    while request := connection.recv(65536):
        connection.sendall(request)


# what is answered, whether it counts as taken
BROKEN = [
    (_echoes, False),
    (says(STATUS + b"no header at all\r\n\r\n"), True),
    (says(STATUS + b"X: " + b"y" * 70_000), False),
]


@pytest.mark.parametrize(("answer", "taken"), BROKEN, ids=["an echo", "no header", "a long header"])
def test_what_is_no_http_gives_nothing_of_the_url_away(
    answer: Answer, taken: bool, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port, thread = serve(answer)
    found = send(f"http://127.0.0.1:{port}/planted-in-the-path?key=planted-in-the-query", headers=headers)
    assert (found is None) is taken
    assert "planted" not in f"{found} {caplog.text}"
    thread.join(10)
