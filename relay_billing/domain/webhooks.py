"""Which events a batch announces, decided from balances before and after it."""

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.entries import Movement
from relay_billing.domain.policy import Policy
from relay_billing.domain.thresholds import subscription_is_low, wallet_events
from relay_billing.domain.webhook_events import Event, EventType, event_id
from relay_billing.domain.worksheet import Worksheet


def events_of(sheet: Worksheet) -> list[Event]:
    """The events that a batch's changes cause, by the thresholds of its policy; none where `announce` is off."""
    policy = sheet.policy
    if not policy.announce:
        return []
    # Sessions alone: only they take from accounts, and an event names the request.
    moved = [each.movement for each in sheet.entries if each.movement.session is not None and not each.shadow]
    last = {(each.account_type, each.account_id): each for each in moved}
    found = []
    for (account_type, account_id), movement in sorted(last.items(), key=lambda item: item[0]):
        delta = sheet.deltas[account_type, account_id]
        if delta >= 0:
            continue
        if account_type is AccountType.WALLET:
            found += _of_wallet(sheet, policy, account_id, delta, movement)
        elif account_type is AccountType.SUBSCRIPTION:
            found += _of_subscription(sheet, policy, account_id, delta, movement)
    return found


def _cause(sheet: Worksheet, movement: Movement) -> tuple[object, ...]:
    """What makes the id of one crossing: the ledger row that completed it, which exists once."""
    kind = (movement.account_type.value, movement.account_id, movement.request_id, movement.kind, movement.step)
    return (*kind, sheet.now_ms)


def _of_wallet(sheet: Worksheet, policy: Policy, user_id: int, delta: int, movement: Movement) -> list[Event]:
    after = sheet.wallets[user_id].quota
    return [
        Event(
            event_id(each, *_cause(sheet, movement)),
            each,
            sheet.now_ms,
            {
                "user_id": user_id,
                "balance_before": after - delta,
                "balance": after,
                "threshold": policy.wallet_low_quota if each is EventType.WALLET_LOW else 0,
                "request_id": movement.session,
            },
        )
        for each in wallet_events(after - delta, after, policy.wallet_low_quota)
    ]


def _of_subscription(
    sheet: Worksheet, policy: Policy, subscription_id: int, delta: int, movement: Movement
) -> list[Event]:
    row = sheet.subscriptions[subscription_id]
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
        "request_id": movement.session,
    }
    event_type = EventType.SUBSCRIPTION_LOW
    return [Event(event_id(event_type, *_cause(sheet, movement)), event_type, sheet.now_ms, data)]
