"""Mutant: a relay whose settles and refunds write no intent."""

from collections.abc import Sequence

from relay_billing.domain.jobs import Job
from relay_billing.flows import settlements
from relay_billing.flows.context import Context
from relay_billing.store.commands import Steps
from tests.faults.relay import main


def intend(context: Context, jobs: Sequence[Job]) -> Steps[None]:
    """Write nothing."""
    yield from ()


# The flow itself: whatever door it is reached through.
settlements.intend = intend

if __name__ == "__main__":
    main()
