"""The door's metrics. No label holds a user, a token, a request id or a key."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from relay_billing.timings import Named, Timings


class Metrics:
    """What one process answered. Each process has its own: scrape each."""

    def __init__(self, registry: CollectorRegistry, in_hand: Callable[[], int]) -> None:
        self._requests = Timings(
            registry,
            Named("billing_api_request_seconds", "How long requests took, those that were refused too"),
            Named("billing_api_requests", "Requests answered, by route, method and status"),
            ("route", "method", "status"),
            timed_by=1,
        )
        self._refusals = Counter("billing_api_refusals", "Problems answered, by code", ["code"], registry=registry)
        self._hung_up = Counter("billing_api_hung_up", "Callers who went before their answer", registry=registry)
        Gauge("billing_api_in_hand", "Requests that are being answered", registry=registry).set_function(in_hand)

    def answered(self, route: str, method: str, status: int, code: str | None, seconds: float) -> None:
        """Count one answer. `code`: of a problem; None: it is none."""
        self._requests.count((route, method, str(status)), seconds)
        if code is not None:
            self._refusals.labels(code).inc()

    def hung_up(self) -> None:
        """Count a caller who did not wait for the answer."""
        self._hung_up.inc()
