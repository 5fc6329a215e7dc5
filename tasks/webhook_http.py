"""Sends one event over HTTP: signed, to an address that was checked, bounded in time; redirects are not followed."""

import hashlib
import hmac
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTP_PORT, HTTPS_PORT, HTTPConnection, HTTPException
from threading import Timer
from urllib.parse import urlsplit

from tasks.public_addresses import Forbidden, resolve

SIGNATURE, EVENT_ID, EVENT_TYPE = "Billing-Signature", "Billing-Event-Id", "Billing-Event"
"""Headers of a delivery."""
CONNECT_TIMEOUT_S = 2.0
"""Seconds for each address."""
MAX_ADDRESSES = 2
"""Addresses of the host that are tried."""
EXCHANGE_TIMEOUT_S = 3.0
"""Seconds from the connection to the status line, TLS included. All of it stays below the shortest pause, 8 s."""
GRACE_S = 0.5
"""Seconds after that, to read what was received by then."""


def signature(secrets: Sequence[str], timestamp: int, body: bytes) -> str:
    """`t=…,v1=…`: one HMAC-SHA256 of `timestamp.body` for each secret, so that a receiver can rotate its secret."""
    signed = str(timestamp).encode() + b"." + body
    made = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={each}" for each in made)])


def _connected(addresses: Sequence[str], port: int) -> socket.socket:
    for number, address in enumerate(addresses, 1):
        try:
            return socket.create_connection((address, port), CONNECT_TIMEOUT_S)
        except OSError:
            if number == len(addresses):
                raise
    raise OSError("the host has no address")


def _cut(sock: socket.socket) -> None:
    """End every wait on the socket: what was received can still be read for `GRACE_S`, then nothing."""
    with suppress(OSError):
        # Not SSLSocket's own shutdown: it removes the TLS session that the reading thread still uses.
        socket.socket.shutdown(sock, socket.SHUT_RD)
        # After a shutdown both ways, the next byte received resets the connection, and the status line would be lost.
        time.sleep(GRACE_S)
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _status(connection: HTTPConnection, target: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Send, and return the status; the answer's body is not read."""
    end = time.monotonic() + EXCHANGE_TIMEOUT_S
    # A socket's own time-out restarts with every byte, so a timer bounds the whole exchange.
    timer = Timer(EXCHANGE_TIMEOUT_S, _cut, (connection.sock,))
    timer.daemon = True
    timer.start()
    try:
        connection.sock.settimeout(EXCHANGE_TIMEOUT_S)
        if isinstance(connection.sock, ssl.SSLSocket):
            # Verifies the certificate and its host name.
            connection.sock.do_handshake()
        connection.request("POST", target, body, headers)
        with connection.getresponse() as response:
            return response.status
    except (OSError, HTTPException) as error:
        if time.monotonic() < end:
            raise
        raise TimeoutError(f"no status within {EXCHANGE_TIMEOUT_S:g} s") from error
    finally:
        timer.cancel()


def _answer(url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool) -> int:
    """The status from the first of the host's addresses that accepts a connection."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (HTTPS_PORT if secure else HTTP_PORT)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    addresses = resolve(host, port, allow_private=allow_private)
    # The host name is for the header `Host`; it does not connect by itself, because it is given a socket.
    with closing(HTTPConnection(host, port)) as connection:
        connection.sock = _connected(addresses[:MAX_ADDRESSES], port)
        if secure:
            connection.default_port = HTTPS_PORT
            connection.sock = ssl.create_default_context().wrap_socket(
                connection.sock, server_hostname=host, do_handshake_on_connect=False
            )
        return _status(connection, target, body, {**headers, "Content-Type": "application/json", "Connection": "close"})


def post(url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool) -> str | None:
    """Post to the URL. None: it was accepted (2xx); else the error, in words that hold no secret."""
    try:
        status = _answer(url, body, headers, allow_private=allow_private)
    except (Forbidden, OSError, ValueError) as error:
        # ValueError: the host name is invalid for the resolver (a UnicodeError) or for TLS.
        return f"{type(error).__name__}: {error}"
    except HTTPException as error:
        # Its message repeats what was received, which may echo what was sent.
        return f"{type(error).__name__}: the answer is not HTTP"
    if 300 <= status < 400:
        return f"HTTP {status}: redirects are not followed"
    return None if 200 <= status < 300 else f"HTTP {status}"
