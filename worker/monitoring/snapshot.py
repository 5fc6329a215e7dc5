"""One reading of database and broker, for metrics, `status` and `health`. Every wait here is short."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from relay_billing import Ledger
from relay_billing.domain.errors import BillingError
from relay_billing.flows.overview import Overview
from relay_billing.store.drivers import engine_of
from relay_billing.store.waits import Waits
from worker.monitoring import queues
from worker.monitoring.queues import BrokerAway, QueueState

SHORT = Waits(statement_s=2.0, call_s=4.0, connect_s=2)
"""A reading has to be quick; 2 s is the shortest connect timeout of libpq."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What could be read, and why the rest could not."""

    overview: Overview | None
    database_problem: str | None
    queues: tuple[QueueState, ...]
    broker_problem: str | None


def _engine(database_url: str) -> Engine:
    """Short waits, and no connection is kept: the worker's main process forks, and children must inherit none."""
    return engine_of(database_url, at_most=SHORT, keep=False)


@contextmanager
def connected(database_url: str) -> Iterator[Connection]:
    """A connection with short waits, closed with the block."""
    with _engine(database_url).connect() as connection:
        yield connection


def read(database_url: str, broker_url: str) -> Snapshot:
    """Read everything once."""
    seen, database_problem = None, None
    try:
        seen = Ledger(_engine(database_url)).overview()
    except BillingError as error:
        database_problem = str(error)
    try:
        with queues.asking(broker_url) as ask:
            return Snapshot(seen, database_problem, ask(), None)
    except BrokerAway as error:
        return Snapshot(seen, database_problem, (), str(error))
