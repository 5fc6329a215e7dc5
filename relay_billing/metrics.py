"""A client's metrics, in a registry of its relay. Imports `prometheus-client` only if there is a registry."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from relay_billing.domain.errors import BillingError, InvalidRequest
from relay_billing.domain.jobs import REFUND_TASK, SETTLE_TASK, Job, task_of
from relay_billing.domain.sessions import BillingSession, State

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter

    from relay_billing.timings import Timings

ANSWER, INTERRUPTED = "ok", "interrupted"
SAFE, UNSAFE = "safe", "unsafe"


class Holding:
    """One pre-consume under way; `session` is set when it has one. A class: a generator would take thrice the time."""

    __slots__ = ("session",)

    def __init__(self) -> None:
        self.session: BillingSession | None = None

    def __enter__(self) -> "Holding":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Count nothing."""


class _CountedHolding(Holding):
    """Quota is counted for a hold that is new: a replay holds nothing more."""

    __slots__ = ("_began", "_began_ms", "_held", "_timings")

    def __init__(self, timings: "Timings", held: "Counter") -> None:
        super().__init__()
        self._timings, self._held = timings, held
        self._began, self._began_ms = time.perf_counter(), time.time_ns() // 1_000_000

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        code = ANSWER if error is None else error.code if isinstance(error, BillingError) else INTERRUPTED
        self._timings.count((code,), time.perf_counter() - self._began)
        session = self.session
        if session is None or session.shadow:
            return
        if session.state is State.PRECONSUMED and session.created_at >= self._began_ms:
            self._held.inc(session.pre_consumed_quota)


class Meter:
    """Counts nothing: the meter of a client without a registry."""

    def watch(self, what: str, waiting: Callable[[], int]) -> None:
        """Register a gauge that reads `waiting`; `what` is `holds`, `ends` or `messages`."""

    def holding(self) -> Holding:
        """Measure one pre-consume, which the block makes."""
        return Holding()

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
            from prometheus_client import Counter, Gauge

            from relay_billing.timings import Named, Timings
        except ModuleNotFoundError as error:
            problem = "needs prometheus-client: pip install prometheus-client, or leave it out"
            raise InvalidRequest("metrics", problem) from error
        try:
            self._holds = Timings(
                registry,
                Named("billing_client_pre_consume_seconds", "How long pre-consumes took, those that were refused too"),
                Named("billing_client_pre_consumes", "Pre-consumes, by `ok` or the error's code"),
                ("code",),
                timed_by=0,
                known=((ANSWER,),),
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
        for task in (SETTLE_TASK, REFUND_TASK):
            self._ends.labels(task, SAFE)

    def watch(self, what: str, waiting: Callable[[], int]) -> None:
        """Register a gauge that reads `waiting`; `what` is `holds`, `ends` or `messages`."""
        self._waiting.labels(what).set_function(waiting)

    def holding(self) -> Holding:
        """Measure one pre-consume, which the block makes."""
        return _CountedHolding(self._holds, self._held)

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
