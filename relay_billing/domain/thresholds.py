"""When a balance is low: thresholds that it crosses on its way down."""

from relay_billing.domain.webhook_events import EventType


def crossed(before: int, after: int, threshold: int) -> bool:
    """Whether a balance fell from above `threshold` to it, or below; after it rises again, it may cross once more."""
    return before > threshold >= after


def wallet_events(before: int, after: int, low_quota: int) -> list[EventType]:
    """The events of a wallet that went from one balance to another; `low_quota` 0: no `wallet.low`."""
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
