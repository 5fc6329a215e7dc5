"""The end of a transaction, as a flow tells it to its driver."""

from relay_billing.store.commands import Command


class Last(list[Command]):
    """The last list of a flow: a driver may commit in the same round trip, so the flow must yield nothing after it."""
