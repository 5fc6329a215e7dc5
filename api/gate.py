"""Finds the route of a request, lets in who may, answers, counts."""

import logging
import time

from prometheus_client import CollectorRegistry

from api.answers import Answer
from api.call import Call, HungUp
from api.keys import Keys
from api.metrics import Metrics
from api.problems import Problem, answer_of
from api.routes import Route, Routes
from relay_billing.domain.errors import BillingError

log = logging.getLogger("api")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""What metrics call by name; all others are `other`."""
ELSEWHERE = "other"
OVERLOADED = answer_of(Problem(503, "overloaded", "too many requests are in hand: nothing was done, try again"), None)


class Gate:
    """One process's door: each layer around it would cost a hold a tenth."""

    def __init__(self, routes: Routes, keys: Keys, max_in_hand: int, registry: CollectorRegistry) -> None:
        """`max_in_hand`: requests that are answered together; one more is refused. `registry`: of the metrics."""
        self._routes, self._keys, self._max = routes, keys, max_in_hand
        self._in_hand = 0
        self._metrics = Metrics(registry, lambda: self._in_hand)

    async def answer(self, call: Call) -> Answer | None:
        """The answer to one request; None: its caller hung up, and needs none."""
        began = time.perf_counter()
        route, call.raw_id = self._routes.find(call.path)
        path = ELSEWHERE if route is None else route.path
        try:
            made = await self._routed(route, call)
        except HungUp:
            self._metrics.hung_up()
            return None
        except (BillingError, Problem) as error:
            made = answer_of(error, call.request_id)
        except Exception:
            # A fault of ours: its text may hold anything, so the caller gets none of it.
            log.exception("a request failed: %s %s", call.method, path)
            made = answer_of(Problem(500, "internal_error", "a fault of this door; its log has it"), call.request_id)
        method = call.method if call.method in METHODS else ELSEWHERE
        self._metrics.answered(path, method, made.status, made.code, time.perf_counter() - began)
        return made

    def refusal(self, problem: Problem, seconds: float) -> Answer:
        """The answer to what is no request that can be read; `seconds`: since it began."""
        made = answer_of(problem, None)
        self._metrics.answered(ELSEWHERE, ELSEWHERE, made.status, made.code, seconds)
        return made

    async def _routed(self, route: Route | None, call: Call) -> Answer:
        if route is None:
            raise Problem(404, "not_found", "there is no such path; /openapi.json has them all")
        if not route.takes(call.method):
            allow = ((b"allow", route.allow.encode()),)
            raise Problem(405, "method_not_allowed", f"{route.path} takes {route.allow}", headers=allow)
        if route.counted and self._in_hand >= self._max:
            return OVERLOADED
        self._in_hand += route.counted
        try:
            if route.scope is not None:
                await self._keys.check(call.headers.get(b"authorization"), route.scope, call.server)
            return await route.handler(call)
        finally:
            self._in_hand -= route.counted
