"""The price list: microseconds of a hold and a settle by where they are spent, and what each index and row costs."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, text

from benchmarks.measure import evenly, request_id
from benchmarks.site import POLICY, Site
from relay_billing import Ledger, PreConsume, SettleJob
from relay_billing.domain.fast_hold import assume
from relay_billing.domain.fast_hold_batch import sendable
from relay_billing.domain.fast_settle import plain
from relay_billing.domain.sources import FUNDING
from relay_billing.store.commands import Alone
from relay_billing.store.drivers import engine_of
from relay_billing.store.pipeline import executed_alone
from relay_billing.store.postgresql import FAST as _FAST

ROUNDS = 7
ITEMS = 2_000
"""Holds or settles of one measurement."""
LONE = 400
"""The same, one by one."""
HOLDS, SETTLES = 64, 500
"""Sizes of the batches in which variants of the schema are compared."""
PREPARED_AFTER = 7
"""Calls after which psycopg has prepared every statement of theirs."""
ENTERED = "), entered AS ("

VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "without the ledger's unique key": ("ALTER TABLE billing_ledger DROP CONSTRAINT {u}",),
    "without the ledger's index of accounts": ("DROP INDEX IF EXISTS ix_billing_ledger_account",),
    "without the ledger's index of times": ("DROP INDEX ix_billing_ledger_created",),
    "without the ledger's primary key": ("ALTER TABLE billing_ledger DROP CONSTRAINT {p}",),
    "without the sessions' index of open ones": ("DROP INDEX ix_billing_sessions_open",),
    "without the sessions' index of times": ("DROP INDEX ix_billing_sessions_times",),
    "without ledger rows": (),
}
"""Each with what is done to a copy of the database. What has no index any more is slower where it is read, not here."""
NO_ROWS = "without ledger rows"


@dataclass(slots=True)
class Cost:
    """Of one item, in microseconds: by the clock, of this process's processor time, of the server process's."""

    wall_us: float
    client_us: float
    server_us: float


@dataclass(slots=True)
class Line:
    """One way of holding or settling, in batches of so many."""

    name: str
    batch: int
    begin: Callable[["Copy"], Callable[[], object]]
    """Prepares one batch, unmeasured; returns what is measured."""
    bare: Callable[["Copy"], Callable[[], object]] | None = None
    """The same statement through the driver alone."""


@dataclass(slots=True)
class Copy:
    """One database, with one connection to it."""

    url: str
    statement: Callable[[str], str] = str
    """What is done to a fast path's statement."""
    engine: Engine = field(init=False)
    backend: int = field(init=False)
    ledger: Ledger = field(init=False)
    general: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.engine = engine_of(self.url)
        with self.engine.connect() as connection:
            self.backend = int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        self.ledger = Ledger(self.engine, POLICY)
        self.general = Ledger(self.engine, POLICY, fast_paths=False)

    def alone(self, alone: Alone) -> Callable[[], object]:
        """One fast path's statement, its batch made before."""
        changed = Alone(self.statement(alone.statement), alone.parameters, alone.names)
        return lambda: executed_alone(self.engine, changed)

    def wal(self) -> int:
        """Bytes of write-ahead log so far."""
        with self.engine.connect() as connection:
            lsn = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
            return int(connection.execute(text(lsn)).scalar_one())


def _asked(count: int) -> list[PreConsume]:
    made = []
    for _ in range(count):
        user = evenly()
        made.append(PreConsume(request_id(), user, user, 10, "bench", "wallet_only"))
    return made


def _now_ms() -> int:
    return round(time.time() * 1000)


def _held(copy: Copy, count: int) -> list[SettleJob]:
    asked = _asked(count)
    copy.ledger.pre_consume_many(asked)
    return [SettleJob(request_id=each.request_id, actual_quota=7) for each in asked]


def _hold_statement(count: int, copy: Copy) -> Callable[[], object]:
    now_ms = _now_ms()
    if count == 1:
        assumed = assume(POLICY, now_ms, _asked(1)[0], FUNDING)
        assert assumed is not None
        return copy.alone(_FAST.hold(assumed, now_ms // 1000).command)
    return copy.alone(_FAST.holds(sendable(POLICY, now_ms, _asked(count), FUNDING), now_ms // 1000).command)


def _settle_statement(count: int, copy: Copy) -> Callable[[], object]:
    sent = plain(POLICY, _held(copy, count), FUNDING)
    return copy.alone(_FAST.settles(sent, _now_ms(), counted=True, lowest_wallet=None).command)


def _ledger_hold(count: int, *, fast: bool = True) -> Callable[[Copy], Callable[[], object]]:
    def begin(copy: Copy) -> Callable[[], object]:
        asked, ledger = _asked(count), copy.ledger if fast else copy.general
        return lambda: ledger.pre_consume_many(asked)

    return begin


def _ledger_settle(count: int, *, fast: bool = True) -> Callable[[Copy], Callable[[], object]]:
    def begin(copy: Copy) -> Callable[[], object]:
        jobs, ledger = _held(copy, count), copy.ledger if fast else copy.general
        return lambda: ledger.apply(jobs)

    return begin


def _lines() -> list[Line]:
    fast = [Line("hold", count, _ledger_hold(count), partial(_hold_statement, count)) for count in (1, 8, 64, 256)]
    fast += [Line("settle", count, _ledger_settle(count), partial(_settle_statement, count)) for count in (1, 100, 500)]
    general = [Line("hold, general path", count, _ledger_hold(count, fast=False)) for count in (1, 64)]
    general += [Line("settle, general path", count, _ledger_settle(count, fast=False)) for count in (1, 500)]
    return fast + general


def _server_ns(pid: int) -> int:
    """Nanoseconds that a process has been on a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def _cost(copy: Copy, batch: int, begin: Callable[[Copy], Callable[[], object]]) -> Cost:
    """Of one item, over many batches; what prepares a batch is not counted."""
    batches = max(2, (LONE if batch == 1 else ITEMS) // batch)
    wall = client = server = 0
    for _ in range(batches):
        call = begin(copy)
        server_began, client_began, began = _server_ns(copy.backend), time.process_time_ns(), time.perf_counter_ns()
        call()
        wall += time.perf_counter_ns() - began
        client += time.process_time_ns() - client_began
        server += _server_ns(copy.backend) - server_began
    items = batches * batch * 1000
    return Cost(wall / items, client / items, server / items)


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(each, name) for each in costs) for name in Cost.__slots__))


@contextmanager
def _copies(site: Site) -> Iterator[dict[str, Copy]]:
    """A database for each variant, all filled alike."""
    admin = create_engine(site.url.rsplit("/", 1)[0] + "/template1", isolation_level="AUTOCOMMIT")
    found = {}
    for number, (name, changes) in enumerate(VARIANTS.items()):
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE price{number} TEMPLATE postgres"))
        url = f"{site.url.rsplit('/', 1)[0]}/price{number}"
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for change in changes:
                connection.execute(text(_named(connection, change)))
        engine.dispose()
        found[name] = Copy(url, _without_rows if name == NO_ROWS else str)
    admin.dispose()
    try:
        yield found
    finally:
        for copy in found.values():
            copy.engine.dispose()


def _named(connection: Connection, change: str) -> str:
    """The change with the name of the ledger's constraint put in: `{u}` the unique key, `{p}` the primary key."""
    question = "SELECT contype, conname FROM pg_constraint WHERE conrelid = 'billing_ledger'::regclass"
    names = {row.contype: row.conname for row in connection.execute(text(question))}
    return change.format(**names)


def _without_rows(statement: str) -> str:
    """A fast path's statement that writes no ledger rows."""
    before, _, entered = statement.partition(ENTERED)
    return f"{before}) {entered[entered.rindex('SELECT') :]}"


def _by_part(copy: Copy, loose: Copy) -> list[dict[str, Any]]:
    """Where the time of one item goes. `loose` doesn't wait for the disk at its commits."""
    lines = _lines()
    found: dict[int, dict[str, list[Cost]]] = {number: {} for number in range(len(lines))}
    for turn in range(ROUNDS):
        for number, line in enumerate(lines):
            ways = {"ours": (copy, line.begin), "loose": (loose, line.begin)}
            if line.bare is not None:
                ways["bare"] = (copy, line.bare)
            for way, (of, begin) in ways.items():
                found[number].setdefault(way, []).append(_cost(of, line.batch, begin))
        print(f"price: round {turn + 1} of {ROUNDS} by part", flush=True)
    rows = []
    for number, line in enumerate(lines):
        ours, quick = _median(found[number]["ours"]), _median(found[number]["loose"])
        driver = _median(found[number]["bare"]).client_us if line.bare is not None else None
        commit = max(0.0, ours.wall_us - quick.wall_us)
        rest = max(0.0, ours.wall_us - ours.client_us - ours.server_us - commit)
        rows.append(
            {
                "what": line.name,
                "batch": line.batch,
                "wall_us": round(ours.wall_us, 1),
                "client_us": round(ours.client_us - (driver or 0.0), 1),
                "driver_us": None if driver is None else round(driver, 1),
                "server_us": round(ours.server_us, 1),
                "commit_us": round(commit, 1),
                "rest_us": round(rest, 1),
            }
        )
    return rows


def _by_variant(copies: dict[str, Copy]) -> list[dict[str, Any]]:
    """What the server needs without each index, and without ledger rows; holds and settles in batches."""
    server: dict[str, dict[str, list[float]]] = {name: {"hold": [], "settle": []} for name in copies}
    written: dict[str, dict[str, list[float]]] = {name: {"hold": [], "settle": []} for name in copies}
    ways = {"hold": (HOLDS, _hold_statement), "settle": (SETTLES, _settle_statement)}
    for turn in range(ROUNDS + 1):
        # None of them is always the first of its round.
        names = list(copies)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            copy = copies[name]
            for what, (batch, statement) in ways.items():
                prepared = [statement(batch, copy) for _ in range(max(2, ITEMS // batch))]
                began, wal = _server_ns(copy.backend), copy.wal()
                for call in prepared:
                    call()
                if not turn:
                    # Plans are made and pages read, in every copy.
                    continue
                items = len(prepared) * batch
                server[name][what].append((_server_ns(copy.backend) - began) / items / 1000)
                written[name][what].append((copy.wal() - wal) / items)
        print(f"price: round {turn} of {ROUNDS} by variant", flush=True)
    return [
        {
            "variant": name,
            **{f"{what}_us": round(statistics.median(server[name][what]), 1) for what in ways},
            **{f"{what}_wal_bytes": round(statistics.median(written[name][what])) for what in ways},
        }
        for name in copies
    ]


def _trips(copy: Copy) -> list[dict[str, Any]]:
    """Statements of one call, and how often it waits for the server: as libpq traces them."""
    trace = Path(tempfile.mkstemp(prefix="billing-price-")[1])
    rows = []
    try:
        for line in _lines():
            for _ in range(PREPARED_AFTER):
                line.begin(copy)()
            call = line.begin(copy)
            with _traced(copy.engine, trace):
                call()
            sent = trace.read_text()
            statements = sent.count("\tBind\t") + sent.count("\tQuery\t")
            rows.append(
                {
                    "what": line.name,
                    "batch": line.batch,
                    "statements": statements,
                    "round_trips": sent.count("\tReadyForQuery\t"),
                }
            )
    finally:
        trace.unlink()
    return rows


@contextmanager
def _traced(engine: Engine, into: Path) -> Iterator[None]:
    """Write down what the pool's one connection sends and is sent."""
    with closing(engine.raw_connection()) as pooled:
        libpq = pooled.driver_connection.pgconn  # type: ignore[union-attr]
    with open(into, "wb") as file:
        libpq.trace(file.fileno())
        try:
            yield
        finally:
            libpq.untrace()


def _size(copy: Copy) -> dict[str, int]:
    """Bytes of the two tables with their indexes, after so many sessions and ledger rows."""
    tables = ("billing_sessions", "billing_ledger")
    with copy.engine.connect() as connection:
        counts = {
            f"{each}_rows": connection.execute(text(f"SELECT count(*) FROM {each}")).scalar_one() for each in tables
        }
        sizes = {
            f"{each}_bytes": connection.execute(text(f"SELECT pg_total_relation_size('{each}')")).scalar_one()
            for each in tables
        }
    return {**counts, **sizes}


def measured(site: Site) -> dict[str, Any]:
    """The whole list."""
    with _copies(site) as copies:
        usual = copies["as it is"]
        loose = Copy(f"{usual.url}?options=-c%20synchronous_commit%3Doff")
        try:
            # The variants first, while all copies have been used alike.
            found: dict[str, Any] = {"variants": _by_variant(copies), "trips": _trips(usual)}
            found |= {"parts": _by_part(usual, loose), "size": _size(usual)}
        finally:
            loose.engine.dispose()
    return found
