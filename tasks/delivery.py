"""Sends one event: signed, to an address that was checked, bounded in time, and nowhere that it is sent on to."""

import hashlib
import hmac
import http.client
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from tasks.addresses import Forbidden, resolve

SIGNATURE, EVENT_ID, EVENT_TYPE = "Billing-Signature", "Billing-Event-Id", "Billing-Event"
"""Headers of a delivery."""
CONNECT_TIMEOUT_S = 2.0
"""For each address."""
MAX_ADDRESSES = 2
EXCHANGE_TIMEOUT_S = 3.0
"""From the connection to the status line, whatever comes in between. All of it stays below the shortest pause, 8 s."""


def signature(secrets: Sequence[str], timestamp: int, body: bytes) -> str:
    """`t=…,v1=…`: the HMAC-SHA256 of `timestamp.body`, one by each secret, so that receivers can change theirs."""
    signed = str(timestamp).encode() + b"." + body
    made = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={each}" for each in made)])


class _Exchange:
    """One connection to an address that was checked; `cut` ends every wait on it."""

    def __init__(self, host: str, port: int, secure: bool, addresses: Sequence[str]) -> None:
        self._sock = _connected(addresses[:MAX_ADDRESSES], port)
        self._connection: http.client.HTTPConnection = http.client.HTTPConnection(host, port)
        if secure:
            # Names the port in `Host` as browsers do: not, where it is 443.
            self._connection.default_port = http.client.HTTPS_PORT
            self._sock = _secured(self._sock, host)
        self._sock.settimeout(EXCHANGE_TIMEOUT_S)
        self._connection.sock = self._sock

    def status(self, target: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send, and return the status; the answer's body is not read."""
        if isinstance(self._sock, ssl.SSLSocket):
            # Checks the certificate and that it is the host's.
            self._sock.do_handshake()
        self._connection.request("POST", target, body, dict(headers))
        return self._connection.getresponse().status

    def cut(self) -> None:
        """End whatever waits for the other side."""
        # Not SSLSocket's own shutdown: that takes the session from under the thread that reads.
        with suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()
        self._sock.close()


def _secured(sock: socket.socket, host: str) -> ssl.SSLSocket:
    """The connection, to be encrypted by a handshake that is still to come, so that it can be cut in time."""
    try:
        context = ssl.create_default_context()
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except (OSError, ValueError):
        sock.close()
        raise


def _connected(addresses: Sequence[str], port: int) -> socket.socket:
    for number, address in enumerate(addresses, 1):
        try:
            return socket.create_connection((address, port), CONNECT_TIMEOUT_S)
        except OSError:
            if number == len(addresses):
                raise
    raise OSError("the host has no address")


def post(url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool) -> str | None:
    """Post to the URL; None: it was taken (2xx), else why it was not, in words that hold no secret."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (http.client.HTTPS_PORT if secure else http.client.HTTP_PORT)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        # ValueError: a name that is none, for the resolver (a UnicodeError) or for TLS.
        exchange = _Exchange(host, port, secure, resolve(host, port, allow_private=allow_private))
    except (Forbidden, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    timer = threading.Timer(EXCHANGE_TIMEOUT_S, exchange.cut)
    timer.daemon = True
    timer.start()
    try:
        status = exchange.status(target, body, {**headers, "Content-Type": "application/json", "Connection": "close"})
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        timer.cancel()
        exchange.close()
    if 300 <= status < 400:
        return f"HTTP {status}: redirects are not followed"
    return None if 200 <= status < 300 else f"HTTP {status}"
