"""The door's metrics. No label holds a user, a token, a request id or a key."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from relay_billing.metrics import BUCKETS_S


class Metrics:
    """What one process answered. Each process has its own: scrape each."""

    def __init__(self, registry: CollectorRegistry, in_hand: Callable[[], int]) -> None:
        self._requests = Counter(
            "billing_api_requests",
            "Requests answered, by route, method and status",
            ["route", "method", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "billing_api_request_seconds",
            "How long requests took, those that were refused too",
            ["route"],
            registry=registry,
            buckets=BUCKETS_S,
        )
        self._refusals = Counter("billing_api_refusals", "Problems answered, by code", ["code"], registry=registry)
        self._hung_up = Counter("billing_api_hung_up", "Callers who went before their answer", registry=registry)
        Gauge("billing_api_in_hand", "Requests that are being answered", registry=registry).set_function(in_hand)
        self._known: dict[tuple[str, str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    def answered(self, route: str, method: str, status: int, code: str | None, seconds: float) -> None:
        """Count one answer. `code`: of a problem; None: it is none."""
        which = (route, method, status)
        known = self._known.get(which)
        if known is None:
            count, took = self._requests.labels(*map(str, which)), self._seconds.labels(route)
            known = self._known[which] = (count.inc, took.observe)
        known[0]()
        known[1](seconds)
        if code is not None:
            self._refusals.labels(code).inc()

    def hung_up(self) -> None:
        """Count a caller who did not wait for the answer."""
        self._hung_up.inc()
