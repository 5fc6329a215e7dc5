"""What parks a job (semantics §5)."""

from relay_billing.domain.outcomes import ParkReason


class Parked(Exception):
    """The job can't be applied as things stand; nothing moves (semantics §5)."""

    def __init__(self, reason: ParkReason, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}")
