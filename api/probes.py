"""What watches the door: `/livez`, `/readyz`, `/metrics`, `/openapi.json`."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.answers import JSON, Answer
from api.call import Call
from api.draining import Draining

TEXT = ((b"content-type", b"text/plain; charset=utf-8"),)


class Probes:
    """Answers without the ledger."""

    def __init__(self, registry: CollectorRegistry, draining: Draining, description: Callable[[], bytes]) -> None:
        self._registry, self._draining, self._description = registry, draining, description

    async def livez(self, call: Call) -> Answer:
        """200 as long as the process answers at all."""
        return Answer(200, TEXT, b"alive\n")

    async def readyz(self, call: Call) -> Answer:
        """200 until the process is asked to end.

        The database is not looked at: all doors share it, so none would be left, and callers would get no answer at
        all in place of a 503 that says what is away.
        """
        if self._draining.begun:
            return Answer(503, TEXT, b"draining\n")
        return Answer(200, TEXT, b"ready\n")

    async def metrics(self, call: Call) -> Answer:
        """The metrics of this process, as Prometheus reads them."""
        kind = CONTENT_TYPE_LATEST.encode()
        return Answer(200, ((b"content-type", kind),), generate_latest(self._registry))

    async def openapi(self, call: Call) -> Answer:
        """The description of all this."""
        return Answer(200, JSON, self._description())
