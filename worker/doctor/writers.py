"""Other programs that write absolute values into balances."""

from collections.abc import Iterator

from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject

ABSOLUTE = (
    "its token form (tokens.remain_quota)",
    "an administrator's override (users.quota)",
    "the transfer of affiliate quota (users.quota)",
    "saving a subscription (user_subscriptions)",
)
"""What new-api writes as a whole value that it has read before, not as a change."""


def absolute(subject: Subject) -> Iterator[Finding]:
    """Whether the account tables are a relay's that writes absolute values."""
    if not subject.tables.accounts:
        return
    if subject.tables.foreign:
        sentence = f"the relay writes whole values, not changes, in {', '.join(ABSOLUTE)}"
        hint = "A movement of ours between its read and its write is undone: see docs/migrating.md before you use these"
        yield Finding(Status.YELLOW, sentence, hint)
    else:
        yield Finding(Status.GREEN, "the tables are ours: nothing is known to write whole values")
