"""The application that `uvicorn --factory api.app:make_app` finds."""

import gc
import importlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry

from api import accounts, batches, ends, sessions
from api.draining import Draining
from api.gate import Gate
from api.keys import Keys, loopback
from api.openapi import description
from api.probes import Probes
from api.protocol import GATE
from api.routes import Route, Routes
from config import logs, startup
from config.refusal import Refusal, ends_the_process
from config.settings import Settings
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.api_keys import Scope
from relay_billing.flows import key_checks
from relay_billing.ledger import Ledger
from relay_billing.store.drivers import engine_of

# Before requests come: later, at the first settle, its import would keep them all waiting.
importlib.import_module("relay_billing.broker.posting")

log = logging.getLogger("api")


def routes(client: AsyncBillingClient, probes: Probes) -> list[Route]:
    """Every path, with its method, what answers it, and what a key needs."""
    return [
        Route("/v1/sessions", "POST", partial(sessions.hold, client), Scope.HOLD),
        Route("/v1/sessions/{request_id}", "GET", partial(sessions.get, client), Scope.READ),
        Route("/v1/sessions/{request_id}/reserve", "POST", partial(sessions.reserve, client), Scope.HOLD),
        Route("/v1/sessions/{request_id}/settle", "POST", partial(ends.settle, client), Scope.END),
        Route("/v1/sessions/{request_id}/refund", "POST", partial(ends.refund, client), Scope.END),
        Route("/v1/sessions:batch", "POST", partial(batches.holds, client), Scope.HOLD),
        Route("/v1/ends:batch", "POST", partial(batches.ends, client), Scope.END),
        Route("/v1/users/{user_id}", "GET", partial(accounts.user, client), Scope.READ),
        Route("/v1/tokens/{token_id}", "GET", partial(accounts.token, client), Scope.READ),
        Route("/livez", "GET", probes.livez, counted=False),
        Route("/readyz", "GET", probes.readyz, counted=False),
        Route("/metrics", "GET", probes.metrics, Scope.READ, counted=False),
        Route("/openapi.json", "GET", probes.openapi, counted=False),
    ]


Message = dict[str, Any]


class Application:
    """Opens the client when the server starts, and closes it when it ends; requests go to the gate past ASGI."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._draining = Draining()
        self._client: AsyncBillingClient | None = None

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """ASGI's lifespan."""
        if scope["type"] != "lifespan":
            raise RuntimeError("this door speaks HTTP itself: start uvicorn with --http api.protocol:Connection")
        await receive()
        try:
            scope["state"][GATE] = await self._open()
        except Exception as error:  # noqa: BLE001, the server ends, with this line
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._client is not None:
            await self._client.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self) -> Gate:
        settings, registry = self._settings, CollectorRegistry()
        self._client = AsyncBillingClient(settings.database_url, settings.broker_url, settings.policy, metrics=registry)
        keys = Keys(self._client)
        if await keys.open_unless_made():
            log.warning("no key was ever made: whoever is on this host may do everything")
        found = routes(self._client, Probes(registry, self._draining, lambda: document))
        document = description(found, version("relay-billing"))
        gate = Gate(Routes(found), keys, settings.api_max_inflight, registry)
        self._draining.watch()
        # What was made until now stays: it is not looked at again whenever garbage is collected. Measured at 64
        # callers: a tenth more holds, and half the p99.
        gc.collect()
        gc.freeze()
        return gate


@ends_the_process()
def make_app() -> Application:
    """The application with the settings of the environment. Ends the process, with one line, if it can't start."""
    settings = startup.settings()
    logs.configure(settings.log_format, startup.secrets(settings))
    startup.check_database(settings)
    _refuse_strangers(settings)
    return Application(settings)


def _refuse_strangers(settings: Settings) -> None:
    """Raise Refusal for a door without keys that others than this host could reach."""
    if loopback(settings.api_address):
        return
    engine = engine_of(settings.database_url)
    try:
        made = Ledger(engine, settings.policy).read(key_checks.any_made)
    finally:
        engine.dispose()
    if not made:
        raise Refusal(
            f"BILLING_API_ADDRESS: {settings.api_address} can be reached from other hosts, and there is no key: make "
            "one with `python -m worker api-keys create`, or listen on 127.0.0.1"
        )
