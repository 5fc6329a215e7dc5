"""Has an engine open its connections as this package does, in place of its driver."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sqlalchemy import Engine, event

from relay_billing.store.waits import Waits


def opened_by(
    engine: Engine, waits: Waits, connected: Callable[..., object], aconnected: Callable[..., Awaitable[object]]
) -> None:
    """For each new connection call `connected`, on asyncio `aconnected`, with `waits` and the driver's arguments."""

    def connect(dialect: object, record: object, args: list[Any], parameters: dict[str, Any]) -> object:
        if engine.dialect.is_async:
            parameters["async_creator_fn"] = partial(aconnected, waits)
            return None
        return connected(waits, *args, **parameters)

    event.listen(engine, "do_connect", connect)
