"""What the people who run a relay are told: which events a batch stands for, decided from balances before and after."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from relay_billing.domain.accounts import AccountType
from relay_billing.domain.changes import Book, Movement
from relay_billing.domain.policy import Policy

MAX_DRIFTS_TOLD = 20
"""Findings that one `reconcile.drift` spells out; it counts them all."""
MAX_ATTEMPTS = 12
"""Deliveries that are tried of one event; with the pauses below that is about a day and a half."""
MAX_AGE_S = 3 * 86_400
"""An event that nobody took for so long is marked failed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10, 6 * 3_600
"""Between the first attempt and the second; no pause is longer than the other one."""
JITTER = 0.2
"""Part of a pause by which it is lengthened or shortened, so that receivers are not met by a herd."""


class EventType(StrEnum):
    """What is told."""

    WALLET_LOW = "wallet.low"
    WALLET_EXHAUSTED = "wallet.exhausted"
    SUBSCRIPTION_LOW = "subscription.low"
    DEAD_LETTER_CREATED = "dead_letter.created"
    RECONCILE_DRIFT = "reconcile.drift"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to tell. `id` stays the same however often it is sent, so receivers can tell copies apart."""

    id: str
    type: EventType
    created_at: int
    """Unix milliseconds."""
    data: Mapping[str, object]

    def body(self) -> str:
        """The JSON that is sent and signed."""
        whole = {"id": self.id, "type": self.type.value, "created_at": self.created_at, "data": dict(self.data)}
        return json.dumps(whole, ensure_ascii=True, separators=(",", ":"))


def _id(event_type: EventType, *parts: object) -> str:
    words = json.dumps([event_type.value, *parts])
    return "evt_" + hashlib.sha256(words.encode()).hexdigest()[:40]


def crossed(before: int, after: int, threshold: int) -> bool:
    """Whether a balance went from above `threshold` to it or below; above it again, it may cross anew."""
    return before > threshold >= after


def wallet_events(before: int, after: int, low_quota: int) -> list[EventType]:
    """What a wallet's way from one balance to another stands for; `low_quota` 0: no `wallet.low`."""
    found = []
    if low_quota and crossed(before, after, low_quota):
        found.append(EventType.WALLET_LOW)
    if crossed(before, after, 0):
        found.append(EventType.WALLET_EXHAUSTED)
    return found


def subscription_is_low(total: int, used_before: int, used_after: int, low_percent: int) -> bool:
    """Whether what is left fell to `low_percent` of the total; 0, or a subscription without limit: never."""
    if not low_percent or total <= 0:
        return False
    return crossed((total - used_before) * 100, (total - used_after) * 100, low_percent * total)


def events_of(book: Book) -> list[Event]:
    """What the changes of a batch stand for, by the thresholds of its policy; nothing where webhooks are off."""
    policy = book.policy
    if not policy.webhook_url:
        return []
    last = {(each.movement.account_type, each.movement.account_id): each.movement for each in book.entries}
    found = []
    for (account_type, account_id), movement in sorted(last.items(), key=lambda item: item[0]):
        delta = book.deltas[account_type, account_id]
        if delta >= 0:
            continue
        if account_type is AccountType.WALLET:
            found += _of_wallet(book, policy, account_id, delta, movement)
        elif account_type is AccountType.SUBSCRIPTION:
            found += _of_subscription(book, policy, account_id, delta, movement)
    return found


def _cause(book: Book, movement: Movement) -> tuple[object, ...]:
    """What names one crossing: the ledger row that ended it, which exists once."""
    kind = (movement.account_type.value, movement.account_id, movement.request_id, movement.kind, movement.step)
    return (*kind, book.now_ms)


def _of_wallet(book: Book, policy: Policy, user_id: int, delta: int, movement: Movement) -> list[Event]:
    after = book.wallets[user_id].quota
    return [
        Event(
            _id(each, *_cause(book, movement)),
            each,
            book.now_ms,
            {
                "user_id": user_id,
                "balance_before": after - delta,
                "balance": after,
                "threshold": policy.wallet_low_quota if each is EventType.WALLET_LOW else 0,
                "request_id": movement.request_id,
            },
        )
        for each in wallet_events(after - delta, after, policy.wallet_low_quota)
    ]


def _of_subscription(book: Book, policy: Policy, subscription_id: int, delta: int, movement: Movement) -> list[Event]:
    row = book.subscriptions[subscription_id]
    if not subscription_is_low(
        row.amount_total, row.amount_used + delta, row.amount_used, policy.subscription_low_percent
    ):
        return []
    data = {
        "subscription_id": subscription_id,
        "user_id": row.user_id,
        "amount_total": row.amount_total,
        "amount_used": row.amount_used,
        "left": row.amount_total - row.amount_used,
        "threshold_percent": policy.subscription_low_percent,
        "request_id": movement.request_id,
    }
    event_type = EventType.SUBSCRIPTION_LOW
    return [Event(_id(event_type, *_cause(book, movement)), event_type, book.now_ms, data)]


def letter_event(letter: Mapping[str, object], now_ms: int) -> Event:
    """What a dead letter that is new stands for. The job itself stays inside: `dead-letters show` has it."""
    names = ("task", "request_id", "user_id", "reason", "quota")
    event_type = EventType.DEAD_LETTER_CREATED
    data = {name: letter[name] for name in names}
    return Event(_id(event_type, letter["fingerprint"], now_ms), event_type, now_ms, data)


def drift_event(findings: Sequence[Mapping[str, object]], count: int, now_ms: int) -> Event:
    """What a proof that did not add up stands for; the same findings are the same event, told once."""
    event_type = EventType.RECONCILE_DRIFT
    told = [dict(each) for each in findings[:MAX_DRIFTS_TOLD]]
    return Event(_id(event_type, told, count), event_type, now_ms, {"drifts": count, "first": told})


def pause_ms(attempts: int, draw: float) -> int:
    """Milliseconds to wait after so many attempts, each pause twice the one before; `draw` in 0 to 1 is the jitter."""
    pause_s: float = min(FIRST_PAUSE_S * 2 ** (attempts - 1) if attempts < 32 else LONGEST_PAUSE_S, LONGEST_PAUSE_S)
    return int(pause_s * 1000 * (1 - JITTER + 2 * JITTER * draw))


def given_up(attempts: int, created_at: int, now_ms: int) -> bool:
    """Whether an event that was not taken is not tried again."""
    return attempts >= MAX_ATTEMPTS or now_ms - created_at >= MAX_AGE_S * 1000
