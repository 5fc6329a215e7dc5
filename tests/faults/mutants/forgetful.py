"""Mutant: a relay whose settles and refunds write no intent."""

from collections.abc import Sequence

from relay_billing import Ledger, RefundJob, SettleJob
from tests.faults.relay import main


def intend(self: Ledger, jobs: Sequence[SettleJob | RefundJob]) -> None:
    """Write nothing."""


Ledger.intend = intend  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
