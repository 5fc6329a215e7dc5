"""The ASGI application: finds the route, lets in who may, answers, counts."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry

from api.answers import Answer
from api.call import Call, HungUp, Message, Receive
from api.keys import Keys
from api.metrics import Metrics
from api.problems import Problem, answer_of
from api.routes import Route, Routes
from relay_billing.domain.errors import BillingError

log = logging.getLogger("api")

Send = Callable[[Message], Awaitable[None]]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""What metrics call by name; all others are `other`."""
ELSEWHERE = "other"
OVERLOADED = answer_of(Problem(503, "overloaded", "too many requests are in hand: nothing was done, try again"), None)


class Gate:
    """One process's door. Plain ASGI: each layer around it would cost a hold a tenth."""

    def __init__(self, routes: Routes, keys: Keys, max_in_hand: int, registry: CollectorRegistry) -> None:
        """`max_in_hand`: requests that are answered together; one more is refused. `registry`: of the metrics."""
        self._routes, self._keys, self._max = routes, keys, max_in_hand
        self._in_hand = 0
        self._metrics = Metrics(registry, lambda: self._in_hand)

    async def answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.perf_counter()
        route, raw_id = self._routes.find(scope["raw_path"])
        call = Call(dict(scope["headers"]), scope["query_string"], receive, raw_id)
        try:
            made = await self._guarded(route, scope, call)
        except HungUp:
            self._metrics.hung_up()
            return
        method = scope["method"] if scope["method"] in METHODS else ELSEWHERE
        path = ELSEWHERE if route is None else route.path
        self._metrics.answered(path, method, made.status, made.code, time.perf_counter() - began)
        length = (b"content-length", str(len(made.body)).encode())
        await send({"type": "http.response.start", "status": made.status, "headers": [*made.headers, length]})
        await send({"type": "http.response.body", "body": made.body})

    async def _guarded(self, route: Route | None, scope: dict[str, Any], call: Call) -> Answer:
        try:
            return await self._routed(route, scope, call)
        except (BillingError, Problem) as error:
            return answer_of(error, call.request_id)
        except HungUp:
            raise
        except Exception:
            # A fault of ours: its text may hold anything, so the caller gets none of it.
            log.exception("a request failed: %s %s", scope["method"], ELSEWHERE if route is None else route.path)
            return answer_of(Problem(500, "internal_error", "a fault of this door; its log has it"), call.request_id)

    async def _routed(self, route: Route | None, scope: dict[str, Any], call: Call) -> Answer:
        if route is None:
            raise Problem(404, "not_found", "there is no such path; /openapi.json has them all")
        if not route.takes(scope["method"]):
            allow = ((b"allow", route.allow.encode()),)
            raise Problem(405, "method_not_allowed", f"{route.path} takes {route.allow}", headers=allow)
        if not route.counted:
            return await self._let_in(route, scope, call)
        if self._in_hand >= self._max:
            return OVERLOADED
        self._in_hand += 1
        try:
            return await self._let_in(route, scope, call)
        finally:
            self._in_hand -= 1

    async def _let_in(self, route: Route, scope: dict[str, Any], call: Call) -> Answer:
        if route.scope is not None:
            await self._keys.check(call.headers.get(b"authorization"), route.scope, scope["server"])
        return await route.handler(call)
