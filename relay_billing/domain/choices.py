"""What an operator may choose among, spelt as in the settings."""

from enum import StrEnum


class SubscriptionOverflow(StrEnum):
    """What a settle does when it needs more than its subscription has left (semantics §5)."""

    OVERDRAW = "overdraw"
    WALLET = "wallet"
    REJECT = "reject"


class HoldExpiry(StrEnum):
    """What becomes of a hold that nobody closes (semantics §8)."""

    RELEASE = "release"
    CHARGE = "charge"


class Durability(StrEnum):
    """What makes a settle or refund safe before the relay goes on (semantics §9)."""

    DATABASE = "database"
    BROKER = "broker"
