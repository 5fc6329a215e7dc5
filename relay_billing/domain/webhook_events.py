"""An event as it is announced: its kind, its id, and the JSON that is sent and signed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from relay_billing.domain.dead_letters import Letter

MAX_DRIFTS_LISTED = 20
"""Drifts that one `reconcile.drift` event lists; it counts them all."""


class EventType(StrEnum):
    """What is announced."""

    WALLET_LOW = "wallet.low"
    WALLET_EXHAUSTED = "wallet.exhausted"
    SUBSCRIPTION_LOW = "subscription.low"
    DEAD_LETTER_CREATED = "dead_letter.created"
    RECONCILE_DRIFT = "reconcile.drift"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to announce. `id` stays the same however often it is sent, so receivers can tell copies apart."""

    id: str
    type: EventType
    created_at: int
    """Unix milliseconds."""
    data: Mapping[str, object]

    def body(self) -> str:
        """The JSON that is sent and signed."""
        whole = {"id": self.id, "type": self.type.value, "created_at": self.created_at, "data": dict(self.data)}
        return json.dumps(whole, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def of_letter(cls, letter: Letter, now_ms: int) -> "Event":
        """The event of a new dead letter. The job itself is left out: `dead-letters show` has it."""
        names = ("task", "request_id", "user_id", "reason", "quota")
        event_type = EventType.DEAD_LETTER_CREATED
        data = {name: getattr(letter, name) for name in names}
        return cls(event_id(event_type, letter.fingerprint, now_ms), event_type, now_ms, data)

    @classmethod
    def of_drift(cls, findings: Sequence[Mapping[str, object]], count: int, now_ms: int) -> "Event":
        """The event of a reconciliation that found drift; the same findings are the same event, announced once."""
        event_type = EventType.RECONCILE_DRIFT
        listed = [dict(each) for each in findings[:MAX_DRIFTS_LISTED]]
        return cls(event_id(event_type, listed, count), event_type, now_ms, {"drifts": count, "first": listed})


def event_id(event_type: EventType, *parts: object) -> str:
    """An id that is the same for the same parts, in every copy that is sent."""
    words = json.dumps([event_type.value, *parts])
    return "evt_" + hashlib.sha256(words.encode()).hexdigest()[:40]
