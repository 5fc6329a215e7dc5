"""The base of the two clients of a relay, for threads and for asyncio."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from relay_billing.batching.rules import Gathering
from relay_billing.broker.publisher import Publisher
from relay_billing.domain.policy import Policy
from relay_billing.metrics import meter_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@dataclass(slots=True)
class Closing:
    """Whether the relay has tried to close a session; shared by all copies of it."""

    tried: bool = False


class Waiting(Protocol):
    """A gatherer, in which calls wait for their batch."""

    @property
    def waiting(self) -> int:
        """How many calls wait."""


class Door:
    """Policy, publisher and metrics of one client. Nothing is opened before it is needed."""

    def __init__(
        self,
        database_url: str,
        broker_url: str,
        policy: Policy | None = None,
        gathering: Gathering | None = None,
        metrics: "CollectorRegistry | None" = None,
    ) -> None:
        """`database_url` is the ledger's (`postgresql://…`, `sqlite:///…`), `broker_url` the queue's (`redis://…`,
        `amqp://…`, `filesystem://FOLDER`), `policy` the same as the workers' (unset: all defaults). Concurrent
        calls are gathered into batches, as `gathering` says (unset: 64 calls, 2 ms). `metrics`: a registry of
        prometheus-client, which the relay serves (unset: nothing is counted). Raises InvalidRequest for a URL that
        can't be used, or a registry that has another client's metrics.
        """
        self._policy = policy or Policy()
        self._meter = meter_of(metrics)
        self._publisher = Publisher(broker_url, self._policy.publish_timeout, self._meter.unposted)
        holds, ends = self._open(database_url, gathering)
        self._meter.watch("holds", lambda: holds.waiting)
        self._meter.watch("ends", lambda: ends.waiting)
        self._meter.watch("messages", lambda: self._publisher.waiting)

    def _open(self, database_url: str, gathering: Gathering | None) -> tuple[Waiting, Waiting]:
        """Make the engine; return the gatherer of holds, and that of settles and refunds."""
        raise NotImplementedError
