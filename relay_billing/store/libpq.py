"""Sends statements through `psycopg.pq`, psycopg's wrapper of libpq: its cursors take more of the processor.

Statements travel as a pipeline, so they take one round trip together. Waits, and what becomes of them when they are
interrupted, stay with psycopg's connection (`connections`).
"""

import json
import re
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.waiting import Ready, Wait
from sqlalchemy import PoolProxiedConnection

BOOLEAN, INTEGER, UNKNOWN = 16, 20, 0
"""PostgreSQL's numbers of the types that parameters have. All integers have 64 bits, so that a statement is prepared
once, not once per width; the server concludes the types of texts and arrays from the statement."""
MOST_PREPARED = 256
"""Statements that are prepared on one connection, at most; there are a few dozen constant ones."""
_KEPT = "relay_billing_prepared"
_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)

Connected = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
T = TypeVar("T")
Waiting = Generator[Wait, Ready | int, T]
"""What psycopg's `Connection.wait` drives: it yields what it waits for, and is sent what is ready."""


class Result(NamedTuple):
    """What one statement returned: its rows, and how many it returned or changed."""

    rows: list[tuple[Any, ...]]
    affected: int


class Statement(NamedTuple):
    """A statement with psycopg's placeholders, `%(name)s`, and its parameters."""

    text: str
    parameters: Mapping[str, object]


class _Query(NamedTuple):
    """A statement with libpq's placeholders, and the names of its parameters by their number."""

    text: bytes
    names: tuple[str, ...]


_Key = tuple[_Query, tuple[int, ...]]
"""What is prepared: a statement, for parameters of these types."""


class _Message(NamedTuple):
    """A statement as it is sent: under its name if it is prepared, which `prepares` does first."""

    key: _Key
    values: list[bytes | None]
    name: bytes | None
    prepares: bool


_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|%)")


@lru_cache(maxsize=MOST_PREPARED)
def _query(text: str) -> _Query:
    numbers: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        name = found[1]
        return "%" if name is None else f"${numbers.setdefault(name, len(numbers) + 1)}"

    return _Query(_PLACEHOLDER.sub(numbered, text).encode(), tuple(numbers))


_listed = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def _array(values: list[object]) -> str:
    """A list of integers, strings, booleans and Nones as PostgreSQL's array literal; psycopg takes ten times as long.

    JSON differs in its brackets, and escapes a newline as backslash and `n`, which PostgreSQL would read as the letter.
    """
    listed = _listed(values)
    if "\\" in listed:
        listed = "[" + ",".join(map(_element, values)) + "]"
    return "{" + listed[1:-1] + "}"


def _element(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _listed(value)


class Prepared:
    """What one connection has prepared, and how it writes and reads values."""

    def __init__(self, raw: Connected) -> None:
        self._raw = raw
        # psycopg's word for a database that takes any bytes.
        self._encoding = "utf-8" if raw.info.encoding == "ascii" else raw.info.encoding
        self._read = Transformer(raw)
        self._names: dict[_Key, bytes] = {}
        self._numbers = count()
        self._sent: Counter[_Key] = Counter()

    @classmethod
    def on(cls, pooled: PoolProxiedConnection) -> "Prepared":
        """What is known of a pooled connection, kept as long as its connection to the server."""
        known: Prepared | None = pooled.info.get(_KEPT)
        if known is None:
            raw: Any = pooled.driver_connection
            known = pooled.info[_KEPT] = cls(raw)
        return known

    def exchange(self, statements: Sequence[Statement]) -> Waiting[list[Result]]:
        """Send the statements in one round trip. Raises psycopg's errors; the first one ends the list."""
        preparing: dict[_Key, bytes] = {}
        messages = [self._message(each, preparing) for each in statements]
        return self._exchanged(self._raw.pgconn, messages)

    def _exchanged(self, pgconn: PGconn, messages: Sequence[_Message]) -> Waiting[list[Result]]:
        found: list[PGresult] = []
        try:
            yield from _answered(pgconn, messages, found)
        except psycopg.OperationalError:
            # The server says why it ends a connection before it does.
            for each in found:
                self._check(each)
            raise
        answers = iter(found)
        of_statements = []
        for message in messages:
            if message.prepares and message.name is not None:
                self._check(next(answers))
                # Known from now on, even if the transaction is undone.
                self._names[message.key] = message.name
            answer = next(answers)
            self._check(answer)
            of_statements.append(answer)
        # Of the commit that ends a list without one of its own.
        for answer in answers:
            self._check(answer)
        return [self._result(each) for each in of_statements]

    def _check(self, answer: PGresult) -> None:
        if answer.status in _FAILED:
            raise error_from_result(answer, self._encoding)

    def _message(self, statement: Statement, preparing: dict[_Key, bytes]) -> _Message:
        """`preparing`: names of what earlier statements of the list prepare."""
        query = _query(statement.text)
        written = [self._written(statement.parameters[name]) for name in query.names]
        key = (query, tuple([each[0] for each in written]))
        values = [each[1] for each in written]
        name = self._names.get(key) or preparing.get(key)
        prepares = name is None and self._counted_as_often(key)
        if prepares:
            name = preparing[key] = b"billing_%d" % next(self._numbers)
        return _Message(key, values, name, prepares)

    def _counted_as_often(self, key: _Key) -> bool:
        """Count one more sending of a statement; return whether it is sent often enough to be prepared."""
        threshold = self._raw.prepare_threshold
        if threshold is None or (len(self._sent) >= MOST_PREPARED and key not in self._sent):
            return False
        self._sent[key] += 1
        return self._sent[key] > threshold

    def _written(self, value: object) -> tuple[int, bytes | None]:
        """The number of a value's type, and its text; None is NULL."""
        if value is None:
            return UNKNOWN, None
        if isinstance(value, bool):
            return BOOLEAN, b"t" if value else b"f"
        if isinstance(value, int):
            return INTEGER, b"%d" % value
        assert isinstance(value, str | list), f"{type(value).__name__} is no parameter of a constant statement"
        text = (value if isinstance(value, str) else _array(value)).encode(self._encoding)
        if b"\0" in text:
            # libpq would take it for the end.
            raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return UNKNOWN, text

    def _result(self, answer: PGresult) -> Result:
        if answer.status != ExecStatus.TUPLES_OK:
            return Result([], answer.command_tuples or 0)
        self._read.set_pgresult(answer)
        rows = self._read.load_rows(0, answer.ntuples, tuple)
        # Its memory is not kept until the next statement.
        self._read.set_pgresult(None)
        return Result(rows, answer.ntuples)


def _send(pgconn: PGconn, message: _Message) -> None:
    """Put one statement into the pipeline, and before it what prepares it."""
    (query, types), values, name, prepares = message
    if name is None:
        pgconn.send_query_params(query.text, values, types)
        return
    if prepares:
        pgconn.send_prepare(name, query.text, types)
    pgconn.send_query_prepared(name, values)


def _answered(pgconn: PGconn, messages: Sequence[_Message], found: list[PGresult]) -> Waiting[None]:
    """Send the messages, and append their results to `found`, in order.

    Whatever interrupts it closes the connection: nobody may take the answers that are still to come for their own.
    """
    try:
        pgconn.enter_pipeline_mode()
        for message in messages:
            _send(pgconn, message)
        pgconn.pipeline_sync()
        while pgconn.flush():
            if (yield Wait.RW) & Ready.R:
                pgconn.consume_input()
        ended = False
        while True:
            while pgconn.is_busy():
                if (yield Wait.R):
                    pgconn.consume_input()
            answer = pgconn.get_result()
            if answer is None:
                # One after each statement; a second one would mean that there is nothing left to come.
                if ended:
                    raise psycopg.OperationalError("the connection ended before all answers were there")
            elif answer.status == ExecStatus.PIPELINE_SYNC:
                break
            else:
                found.append(answer)
            ended = answer is None
        pgconn.exit_pipeline_mode()
    except BaseException:
        pgconn.finish()
        raise
