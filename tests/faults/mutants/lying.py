"""Mutant: a door that answers a settle or refund before its intent is written."""

import asyncio

from api.__main__ import main
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.jobs import Job

_close_session = AsyncBillingClient.close_session
_later: set[asyncio.Task[None]] = set()


async def close_session(client: AsyncBillingClient, job: Job) -> None:
    """Begin it, and wait for nothing."""
    task = asyncio.get_running_loop().create_task(_close_session(client, job))
    _later.add(task)
    task.add_done_callback(_later.discard)


AsyncBillingClient.close_session = close_session  # type: ignore[assignment, method-assign]

if __name__ == "__main__":
    main()
