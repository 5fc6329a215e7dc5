"""What a check has found."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How bad it is."""

    RED = "red"
    """Billing would fail or go wrong here."""
    YELLOW = "yellow"
    """To be known, or to be done before it hurts; also what could not be looked at."""
    GREEN = "green"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    status: Status
    sentence: str
    """What there is, with its figures."""
    hint: str = ""
    """What to do about it; empty: nothing."""
