"""Sends lists of constant statements to PyMySQL and aiomysql directly, a list in one round trip.

SQLAlchemy takes as long for a statement as the server does, and each round trip as long again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from pymysql.constants import CLIENT, CR
from pymysql.err import OperationalError
from sqlalchemy import Connection, Executable, Select
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from relay_billing.store.commands import Command, Reply
from relay_billing.store.compiled import CACHED, Sent, sent_of
from relay_billing.store.last import Last
from relay_billing.store.mysql_locks import asked_before, in_order
from relay_billing.store.raised import driver_of, raised

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

PACKET_CHARACTERS = 250_000
"""The most that is put together. A character takes up to four bytes, and many servers accept no more than 1 MiB."""
_VALUES = " VALUES "
_CHECK = "SET @moved = 9223372036854775807 + (ROW_COUNT() <> {})"
"""An overflow, and so an error, unless the statement before has changed so many rows."""
_COMPILER_DIALECT = MySQLDialect_pymysql(paramstyle="pyformat")
_Escaped = Callable[[str, Mapping[str, object]], str]
"""A driver's own: writes a statement's parameters into it."""


@lru_cache(maxsize=CACHED)
def _ordered(statement: Select[Any], *, one: bool) -> Select[Any]:
    return in_order(statement, one=one)


@lru_cache(maxsize=CACHED)
def _asking(statement: Executable) -> Select[Any] | None:
    return asked_before(statement) if isinstance(statement, Select) else None


def _before(command: Command) -> Command | None:
    """The command that may make this one needless: by finding nothing."""
    asking = _asking(command.statement)
    return None if asking is None else replace(command, statement=asking)


def _sent_of(command: Command) -> Sent:
    if isinstance(command.statement, Select):
        assert isinstance(command.parameters, Mapping)
        ids = command.parameters.get("ids")
        ordered = _ordered(command.statement, one=isinstance(ids, list) and len(ids) < 2)
        if ordered is not command.statement:
            command = replace(command, statement=ordered)
    return sent_of(command, _COMPILER_DIALECT)


@dataclass(frozen=True, slots=True)
class _Statement:
    text: str
    command: int | None
    """The place of its command in the list; None: the COMMIT."""
    checks: bool = False
    """It fails unless its command's statement, which came just before, has changed as many rows as it must."""
    asks: bool = False
    """It asks whether its command's statement will find anything; ends its packet."""


class _List:
    """A list of commands as statements, in packets, and the server's answers to them.

    A `Last` brings its COMMIT. Since nobody can look at the replies before that, the server itself checks how many
    rows a statement has changed.
    """

    def __init__(self, connection: Connection, commands: Sequence[Command]) -> None:
        raw: Any = connection.connection.driver_connection
        # The driver's own way to write a value into a statement. Not a cursor's: it does the same by more calls.
        self._escape: Callable[[object], str] = raw.escape
        self._commands = commands
        self._sent = [_sent_of(each) for each in commands]
        # An engine of the caller's own may not have the flag: each statement is a packet of its own then.
        self._together = bool(raw.client_flag & CLIENT.MULTI_STATEMENTS)
        self._ends = self._together and isinstance(commands, Last)
        self._rows: list[Sequence[Sequence[object]]] = [()] * len(commands)
        self._counts = [0] * len(commands)
        self._empty: set[int] = set()
        """Places of commands that are known to find nothing, and so are not sent."""
        self._asked: list[_Statement] = []
        """The packet that was sent last, as far as it is not answered, from its end."""

    def packets(self) -> Iterator[str]:
        """The packets, to be sent one after the other; the answers to each are `took` before the next."""
        packet: list[_Statement] = []
        size = 0
        for statement in self._statements():
            size += len(statement.text)
            if packet and (size > PACKET_CHARACTERS or not self._together):
                yield self._begun(packet)
                packet, size = [], len(statement.text)
            packet.append(statement)
            if statement.asks:
                yield self._begun(packet)
                packet, size = [], 0
        if packet:
            yield self._begun(packet)

    def _begun(self, packet: list[_Statement]) -> str:
        self._asked = packet[::-1]
        return "; ".join([each.text for each in packet])

    def _statements(self) -> Iterator[_Statement]:
        for place, (command, sent) in enumerate(zip(self._commands, self._sent, strict=True)):
            if self._spared(place):
                continue
            if (before := _before(command)) is not None:
                asked, given = sent_of(before, _COMPILER_DIALECT), cast("Mapping[str, object]", before.parameters)
                yield _Statement(self._escaped(asked.text, asked.parameters(given)), place, asks=True)
                if not self._rows[place]:
                    self._empty.add(place)
                    continue
            if isinstance(command.parameters, dict):
                yield _Statement(self._escaped(sent.text, sent.parameters(command.parameters)), place)
            else:
                for text in _inserts(sent, command, self._escaped):
                    yield _Statement(text, place)
            if self._ends and command.touches is not None:
                yield _Statement(_CHECK.format(command.touches), place, checks=True)
        if self._ends:
            yield _Statement("COMMIT", None)

    def _spared(self, place: int) -> bool:
        """Whether the command need not be sent: it follows one that is known to find nothing."""
        spared = self._commands[place].follows and place - 1 in self._empty
        if spared:
            self._empty.add(place)
        return spared

    def _escaped(self, text: str, parameters: Mapping[str, object]) -> str:
        escape = self._escape
        return text % {name: escape(value) for name, value in parameters.items()}

    def took(self, result: Any) -> bool:  # noqa: ANN401
        """Take the driver's next result; return whether more of them are to be read."""
        if not self._asked:
            raise OperationalError(CR.CR_SERVER_LOST, "the server gave more answers than there were statements")
        statement = self._asked.pop()
        if statement.command is not None and not statement.checks:
            self._rows[statement.command] = result.rows or ()
            if not statement.asks:
                self._counts[statement.command] += result.affected_rows
        if not result.has_next and self._asked:
            # An answer to something else: another one of ours may still come, so nothing else may be asked here.
            raise OperationalError(CR.CR_SERVER_LOST, "the server gave fewer answers than there were statements")
        return bool(result.has_next)

    def failed(self) -> str:
        """The statement that was answered with an error. Raises UpdateDataError if a row had moved under its lock."""
        statement = self._asked[-1] if self._asked else None
        if statement is None or statement.command is None:
            return "COMMIT"
        if statement.checks:
            self._commands[statement.command].check(self._counts[statement.command])
        return self._sent[statement.command].text

    def replies(self) -> list[Reply]:
        """The replies to the commands, once all is answered."""
        answers = zip(self._sent, self._rows, self._counts, strict=True)
        return [sent.reply(rows if sent.names else (), count) for sent, rows, count in answers]


def _inserts(sent: Sent, command: Command, escaped: _Escaped) -> Iterator[str]:
    """An INSERT of many rows, as few statements as fit into packets."""
    head, values = sent.text.split(_VALUES)
    rows: list[str] = []
    size = 0
    for each in sent.all_parameters(command):
        row = escaped(values, each)
        size += len(row)
        if rows and size > PACKET_CHARACTERS:
            yield head + _VALUES + ", ".join(rows)
            rows, size = [], len(row)
        rows.append(row)
    yield head + _VALUES + ", ".join(rows)


def runs(commands: Sequence[Command]) -> list[tuple[bool, Sequence[Command]]]:
    """The commands in their order, in runs of constant ones and of others; with each, which of the two it is.

    A list of one kind stays the object that it is: it may be the last one of its flow.
    """
    found = [(constant, list(some)) for constant, some in groupby(commands, attrgetter("constant"))]
    return [(found[0][0], commands)] if len(found) == 1 else [*found]


def carried_out(connection: Connection, commands: Sequence[Command]) -> list[Reply]:
    """Run constant commands in their order; return a reply for each. Raises SQLAlchemy's errors.

    After an error the server carries out none of those that follow.
    """
    raw: Any = connection.connection.driver_connection
    asked = _List(connection, commands)
    try:
        for packet in asked.packets():
            raw.query(packet)
            while asked.took(raw._result):
                raw.next_result()
    except driver_of(connection).Error as error:
        made = raised(connection, error, asked.failed())
        if made.connection_invalidated:
            connection.invalidate(error)
        raise made from error
    except BaseException as error:
        # Answers may be left, which would be taken for those of the next statements.
        connection.invalidate(error)
        raise
    return asked.replies()


async def acarried_out(connection: "AsyncConnection", commands: Sequence[Command]) -> list[Reply]:
    """As `carried_out`, on aiomysql."""
    known = connection.sync_connection
    assert known is not None
    raw: Any = known.connection.driver_connection
    asked = _List(known, commands)
    try:
        for packet in asked.packets():
            await raw.query(packet)
            while asked.took(raw._result):
                await raw.next_result()
    except driver_of(known).Error as error:
        made = raised(known, error, asked.failed())
        if made.connection_invalidated:
            await connection.invalidate(error)
        raise made from error
    except BaseException as error:
        # A cancellation, for example: it must not become the error of a rollback over this connection.
        await connection.invalidate(error)
        raise
    return asked.replies()
