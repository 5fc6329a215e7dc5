"""Connections to MySQL and MariaDB whose sessions are set up and whose waits are bounded, sync and async."""

import asyncio
import math
import re
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import Any, TypeVar

import aiomysql
import pymysql
from pymysql.constants import CLIENT, CR
from pymysql.constants.SERVER_STATUS import SERVER_STATUS_IN_TRANS
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket
from sqlalchemy import Engine, event
from sqlalchemy.pool import PoolResetState

from relay_billing.domain.errors import InvalidRequest
from relay_billing.store.allowance import Allowance
from relay_billing.store.mysql import MYSQL
from relay_billing.store.opened import opened_by
from relay_billing.store.waits import GRACE_S, Bounds, Waits, connect_timeout_s, seconds_of_wait

T = TypeVar("T")

OLDEST = {"MySQL": (8, 0), "MariaDB": (10, 6)}
"""Before these there is no JSON_TABLE, or no SKIP LOCKED."""
_VERSION = re.compile(r"(?:5\.5\.5-)?(\d+)\.(\d+)")
"""As a server says it when a connection begins; MariaDB before 11 says `5.5.5-` first, for old replicas."""


def _is_mariadb(server: str) -> bool:
    return "mariadb" in server.lower()


def _check_version(server: str) -> None:
    """Raises InvalidRequest if the server is too old."""
    name = "MariaDB" if _is_mariadb(server) else "MySQL"
    found = _VERSION.match(server)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < OLDEST[name]:
        needed = ".".join(map(str, OLDEST[name]))
        raise InvalidRequest("database_url", f"leads to {name} {server}; {needed} or later is needed")


_PARSED: dict[Callable[..., MysqlPacket], Callable[..., MysqlPacket]] = {
    FieldDescriptorPacket: lru_cache(maxsize=1024)(FieldDescriptorPacket)
}
"""How a packet is parsed, where not by itself. Columns say the same with every result, and took a third of our time."""


_EOF, _EOF_BYTES = 0xFE, 5


class _Setup(Allowance):
    """What both kinds of connections share."""

    server: str = ""
    # The drivers' own.
    server_status: int
    _result: object

    def allowing(self, seconds: float) -> str:
        """The statement that sets the session's time-outs: for a statement, and for each of its waits for a lock.

        MySQL's own bound is for SELECT alone; what else takes long there waits for locks.
        """
        whole = max(1, math.ceil(seconds))
        bound = f"max_statement_time = {seconds:g}"
        if not _is_mariadb(self.server):
            bound = f"max_execution_time = {math.ceil(seconds * 1000)}"
        return f"SET SESSION innodb_lock_wait_timeout = {whole}, lock_wait_timeout = {whole}, {bound}"

    def kept(self) -> bool:
        """The session keeps it until it is set again."""
        return True

    def _read(self, packet: MysqlPacket) -> MysqlPacket:
        """Keep what an EOF, which ends rows, says of the server's status; the drivers keep what an OK says."""
        data = packet.get_all_data()
        if len(data) == _EOF_BYTES and data[0] == _EOF:
            self.server_status = int.from_bytes(data[3:5], "little")
        return packet

    def _committed(self) -> bool:
        """Whether the last list has committed: its last answer was a COMMIT's OK, and no transaction is open."""
        ok = getattr(self._result, "server_status", None) is not None
        return ok and not self.server_status & SERVER_STATUS_IN_TRANS


class _Connection(_Setup, pymysql.connections.Connection):
    """A PyMySQL connection. A wait that gets no answer in time raises OperationalError and closes the connection."""

    def _bound(self) -> None:
        self._read_timeout = self._write_timeout = seconds_of_wait(self.allowed_s + GRACE_S)

    def _read_packet(self, packet_type: Callable[..., MysqlPacket] = MysqlPacket) -> MysqlPacket:
        return self._read(super()._read_packet(_PARSED.get(packet_type, packet_type)))

    def query(self, sql: str, unbuffered: bool = False) -> int:
        """Overrides PyMySQL's method, in which every statement waits."""
        self._bound()
        count: int = super().query(sql, unbuffered)
        return count

    def commit(self) -> None:
        """Likewise; not sent where the last list of statements has committed."""
        if not self._committed():
            self._bound()
            super().commit()

    def rollback(self) -> None:
        """Likewise."""
        self._bound()
        super().rollback()


class _AsyncConnection(_Setup, aiomysql.Connection):
    """As `_Connection`, for asyncio."""

    async def _within(self, seconds: float, doing: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await doing
        except TimeoutError as error:
            # Closes without sending anything: nothing may wait for the server from here on.
            if self._writer is not None:
                self._writer.transport.abort()
            self.close()
            raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, f"no answer in {seconds:g} s") from error

    async def _request_authentication(self) -> None:
        # As PyMySQL does: aiomysql would go on without TLS where the server, or somebody in between, says it has none.
        if self._ssl_context and not self.server_capabilities & CLIENT.SSL:
            raise pymysql.err.OperationalError(
                CR.CR_SSL_CONNECTION_ERROR, "SSL is required but the server doesn't support it"
            )
        await super()._request_authentication()

    async def _read_packet(self, packet_type: Callable[..., MysqlPacket] = MysqlPacket) -> MysqlPacket:
        return self._read(await super()._read_packet(_PARSED.get(packet_type, packet_type)))

    async def query(self, sql: str, unbuffered: bool = False) -> int:
        """Overrides aiomysql's method, in which every statement waits."""
        count: int = await self._within(seconds_of_wait(self.allowed_s + GRACE_S), super().query(sql, unbuffered))
        return count

    async def next_result(self) -> int:
        """Likewise; PyMySQL's reads are bounded by what `query` has set."""
        count: int = await self._within(seconds_of_wait(self.allowed_s + GRACE_S), super().next_result())
        return count

    async def commit(self) -> None:
        """Likewise; not sent where the last list of statements has committed."""
        if not self._committed():
            await self._within(seconds_of_wait(self.allowed_s + GRACE_S), super().commit())

    async def rollback(self) -> None:
        """Likewise."""
        await self._within(seconds_of_wait(self.allowed_s + GRACE_S), super().rollback())

    def escape(self, obj: object) -> str:
        """Overrides aiomysql's method, which knows no lists, and leans on what PyMySQL no longer has for bytes."""
        if isinstance(obj, bytes):
            return f"X'{obj.hex()}'"
        if isinstance(obj, list):
            return f"({','.join(map(self.escape, obj))})"
        escaped: str = super().escape(obj)
        return escaped

    async def opened(self, connect_s: int) -> None:
        """Connect, log in."""
        await self._within(connect_s, self._connect())


def _connected(waits: Waits, *args: Any, **parameters: Any) -> _Connection:  # noqa: ANN401
    """A new connection; the parameters are PyMySQL's. Raises PyMySQL's errors, InvalidRequest for an old server."""
    connect_s = connect_timeout_s(waits.connect_s, 1)
    given = parameters | {"connect_timeout": connect_s, "read_timeout": connect_s, "write_timeout": connect_s}
    # aiomysql always sets it.
    given["client_flag"] = given.get("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    made = _Connection(*args, **given)
    try:
        made.server = made.get_server_info()
        _check_version(made.server)
        made.allow(waits.statement_s)
        for statement in (*MYSQL.opening, made.allowing(waits.statement_s)):
            made.query(statement)
    except BaseException:
        made._force_close()
        raise
    return made


async def _aconnected(waits: Waits, *args: Any, **parameters: Any) -> _AsyncConnection:  # noqa: ANN401
    """As `_connected`, for asyncio."""
    connect_s = connect_timeout_s(waits.connect_s, 1)
    given = parameters | {"connect_timeout": connect_s}
    if given.get("ssl"):
        # SQLAlchemy gives what the URL says, which PyMySQL makes a context of; aiomysql takes a context alone.
        given["ssl"] = pymysql.connections.Connection._create_ssl_ctx(None, given["ssl"])
    made = _AsyncConnection(*args, **given)
    try:
        await made.opened(connect_s)
        made.server = made.get_server_info()
        _check_version(made.server)
        made.allow(waits.statement_s)
        for statement in (*MYSQL.opening, made.allowing(waits.statement_s)):
            await made.query(statement)
    except BaseException:
        made.close()
        raise
    return made


def bound(engine: Engine, bounds: Bounds) -> None:
    """Make an engine open bounded connections. For an async engine, pass its `sync_engine`."""
    opened_by(engine, bounds.waits, _connected, _aconnected)

    def reset(connection: Any, record: object, state: PoolResetState) -> None:  # noqa: ANN401
        # The server says with each answer whether a transaction is open: a rollback for nothing is a round trip.
        raw = engine.dialect.get_driver_connection(connection)
        if not state.terminate_only and raw.server_status & SERVER_STATUS_IN_TRANS:
            connection.rollback()

    event.listen(engine, "reset", reset)
