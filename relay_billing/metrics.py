"""A client's metrics, in a registry of its relay. Imports `prometheus-client` only if there is a registry."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay_billing.domain.errors import BillingError, InvalidRequest
from relay_billing.domain.jobs import REFUND_TASK, SETTLE_TASK, Job, task_of
from relay_billing.domain.sessions import BillingSession, State

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a hold in one round trip to one that is retried until its call's time-out."""
ANSWER = "ok"
SAFE, UNSAFE = "safe", "unsafe"


@dataclass(slots=True)
class Holding:
    """One pre-consume under way; `session` is set when it has one."""

    session: BillingSession | None = None


class Meter:
    """Counts nothing: the meter of a client without a registry."""

    def watch(self, what: str, waiting: Callable[[], int]) -> None:
        """Register a gauge that reads `waiting`; `what` is `holds`, `ends` or `messages`."""

    @contextmanager
    def holding(self) -> Iterator[Holding]:
        """Measure one pre-consume."""
        yield Holding()

    @contextmanager
    def ending(self, job: Job) -> Iterator[None]:
        """Count one settle or refund: it is safe unless it raises."""
        yield

    def unposted(self, jobs: Sequence[Job]) -> None:
        """Count jobs that the broker did not take."""


class _RegistryMeter(Meter):
    """The metrics of one client, prefix `billing_client_`. No label holds a user, a token or a request id."""

    def __init__(self, registry: "CollectorRegistry") -> None:
        """Raises InvalidRequest without prometheus-client, or where the registry has these metrics already."""
        try:
            from prometheus_client import Counter, Gauge, Histogram
        except ModuleNotFoundError as error:
            problem = "needs prometheus-client: pip install prometheus-client, or leave it out"
            raise InvalidRequest("metrics", problem) from error
        try:
            self._holds = Histogram(
                "billing_client_pre_consume_seconds",
                "How long pre-consumes took, those that were refused too",
                registry=registry,
                buckets=BUCKETS_S,
            )
            self._answers = Counter(
                "billing_client_pre_consumes", "Pre-consumes, by `ok` or the error's code", ["code"], registry=registry
            )
            self._held = Counter("billing_client_held_quota", "Quota that pre-consumes have held", registry=registry)
            self._ends = Counter(
                "billing_client_ends",
                "Settles and refunds, by whether they are safe",
                ["task", "state"],
                registry=registry,
            )
            self._unposted = Counter(
                "billing_client_unposted_jobs",
                "Jobs that the broker did not take: their intents stand",
                registry=registry,
            )
            self._waiting = Gauge(
                "billing_client_waiting",
                "Calls that wait for their batch, messages for the broker",
                ["what"],
                registry=registry,
            )
        except ValueError as error:
            problem = "this registry has a client's metrics already: give each client a registry, or share the client"
            raise InvalidRequest("metrics", problem) from error
        # Looked up once: each look-up takes a lock.
        self._held_well = self._answers.labels(ANSWER)
        for task in (SETTLE_TASK, REFUND_TASK):
            self._ends.labels(task, SAFE)

    def watch(self, what: str, waiting: Callable[[], int]) -> None:
        """Register a gauge that reads `waiting`; `what` is `holds`, `ends` or `messages`."""
        self._waiting.labels(what).set_function(waiting)

    @contextmanager
    def holding(self) -> Iterator[Holding]:
        """Measure one pre-consume. Quota is counted for a hold that is new: a replay holds nothing more."""
        began, began_ms = time.perf_counter(), time.time_ns() // 1_000_000
        holding = Holding()
        try:
            yield holding
        except BillingError as error:
            self._answers.labels(error.code).inc()
            raise
        finally:
            self._holds.observe(time.perf_counter() - began)
        self._held_well.inc()
        session = holding.session
        if session is None or session.shadow:
            return
        if session.state is State.PRECONSUMED and session.created_at >= began_ms:
            self._held.inc(session.pre_consumed_quota)

    @contextmanager
    def ending(self, job: Job) -> Iterator[None]:
        """Count one settle or refund: it is safe unless it raises."""
        try:
            yield
        except BillingError:
            self._ends.labels(task_of(job), UNSAFE).inc()
            raise
        self._ends.labels(task_of(job), SAFE).inc()

    def unposted(self, jobs: Sequence[Job]) -> None:
        """Count jobs that the broker did not take."""
        self._unposted.inc(len(jobs))


def meter_of(registry: "CollectorRegistry | None") -> Meter:
    """A meter for a registry; unset: nothing is counted."""
    return Meter() if registry is None else _RegistryMeter(registry)
