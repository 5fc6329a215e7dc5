"""What the comparison says of one request. Pure: amounts in, a word out."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How the shadow and the relay's own billing agree on one request; each request has exactly one."""

    AGREED = "agreed"
    REFUSED = "refused"
    """We would have refused what they charged."""
    OVERDREW = "overdrew"
    """They charged more than there was at its hold, or the wallet was below 0 when it ended."""
    DIFFER = "differ"
    NEVER_CHARGED = "never_charged"
    ONLY_THEIRS = "only_theirs"
    """Their log has it, and we were never asked."""
    OPEN = "open"
    """Its session has not ended yet."""
    NOT_COMPARED = "not_compared"
    """Their log could not be read."""

    @property
    def words(self) -> str:
        """As people read it."""
        return _WORDS[self]


_WORDS = {
    Verdict.AGREED: "agreed",
    Verdict.REFUSED: "we would have refused",
    Verdict.OVERDREW: "they overdrew",
    Verdict.DIFFER: "amounts differ",
    Verdict.NEVER_CHARGED: "they never charged",
    Verdict.ONLY_THEIRS: "only they know it",
    Verdict.OPEN: "still open",
    Verdict.NOT_COMPARED: "not compared",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One request as both sides have it. Amounts are quota."""

    request_id: str
    user_id: int | None
    at: int
    """Unix milliseconds: when we were asked; where we never were, the time of their first row."""
    ours: int | None
    """What we would have charged; a refusal charges 0. None: we were never asked."""
    theirs: int | None
    """What they charged, less what they gave back. None: their log has no row of it."""
    refused: bool = False
    open: bool = False
    funds: int | None = None
    """What there was when we were asked: of a session in the account that pays, of a refusal in all of the user's.

    None: without limit, or not known.
    """
    below: bool = False
    """The wallet was below 0 when our session ended."""

    @property
    def charged(self) -> int:
        """What they charged in all; 0 without a row."""
        return self.theirs or 0

    @property
    def difference(self) -> int:
        """What they charged above (positive) or below (negative) what we would have."""
        return self.charged - (self.ours or 0)

    @property
    def overdrawn(self) -> bool:
        """Whether they charged more than there was."""
        return self.charged > 0 and (self.below or (self.funds is not None and self.charged > self.funds))


def verdict(pair: Pair, *, readable: bool) -> Verdict:
    """The verdict on one request; the first that fits. `readable`: whether their log could be read."""
    if pair.ours is None:
        return Verdict.ONLY_THEIRS
    if pair.refused:
        return Verdict.REFUSED if pair.charged > 0 or not readable else Verdict.AGREED
    if pair.open:
        return Verdict.OPEN
    if not readable:
        return Verdict.NOT_COMPARED
    if pair.theirs is None and pair.ours > 0:
        return Verdict.NEVER_CHARGED
    if pair.overdrawn:
        return Verdict.OVERDREW
    return Verdict.AGREED if pair.difference == 0 else Verdict.DIFFER
