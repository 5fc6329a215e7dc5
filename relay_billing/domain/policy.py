"""The values that decisions follow, each with unit, default and reason."""

from dataclasses import dataclass, fields
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo

from relay_billing.domain import checks
from relay_billing.domain.choices import Durability, HoldExpiry, SubscriptionOverflow
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.money import MAX_QUOTA
from relay_billing.domain.ownership import Accounts, Calendar

MAX_SECONDS = 10 * 366 * 86_400


@dataclass(frozen=True, slots=True)
class Policy:
    """The values that decisions follow; relay and worker must be given the same.

    Raises InvalidRequest, naming the field, for a value out of range.
    """

    trust_quota: int = 5_000_000
    """Quota, 10 USD as in relays. Where wallet and token both have more, nothing is held; 0: all is held (§3.4)."""
    trust_max_inflight: int = 0
    """Open trusted sessions that a user may have; the next request is held after all; 0: no limit (§3.4)."""
    hold_ttl: int = 3_600
    """Seconds until a hold that nobody closed expires. Keep it above the relay's longest retry ladder (§8)."""
    hold_expiry: HoldExpiry = HoldExpiry.RELEASE
    """An expired hold: `release` gives it back, `charge` keeps it as the price (§8)."""
    subscription_overflow: SubscriptionOverflow = SubscriptionOverflow.OVERDRAW
    """`overdraw`, `wallet` or `reject`: a settle above what the subscription has left (§5)."""
    max_settle_quota: int = 500_000_000
    """Quota. A settle above it is parked as implausible; 0: no limit. 1,000 USD: no honest request costs that (§5)."""
    accounts: Accounts = Accounts.OWN
    """Whose account tables these are: `own`, or `new-api`, a relay's that goes on working beside us (§12)."""
    record_usage: bool | None = None
    """Whether a settle counts into `users.used_quota` and `request_count`; unset: with `own` accounts alone, because
    new-api counts itself (§5, §12)."""
    timezone: str = "UTC"
    """IANA zone in which daily, weekly and monthly periods begin (§7)."""
    subscription_calendar: Calendar = Calendar.OWN
    """Who resets and ends subscriptions: `own`, or `external`, another program, such as new-api's master (§12)."""
    durability: Durability = Durability.DATABASE
    """`database`: the intent is written before the job is posted. `broker`: only where posting fails (§9)."""
    publish_timeout: int = 2
    """Seconds a settle or refund may wait for the broker (§9)."""
    intent_grace: int = 30
    """Seconds an intent may wait for its message before the sweep applies it (§9)."""
    announce: bool = False
    """Whether events are written, for a worker to send to the webhook: low accounts, dead letters, drift."""
    wallet_low_quota: int = 500_000
    """Quota. A wallet that falls to it, or below, is announced as `wallet.low`; 0: never. 1 USD."""
    subscription_low_percent: int = 10
    """Percent. A subscription that has this much left, or less, is announced as `subscription.low`; 0: never."""

    cache_deltas: bool = False
    """Whether each movement of a wallet or token is kept for a new-api relay's caches, until a worker has applied it.
    Then there are no fast paths."""

    shadow: bool = False
    """Whether new sessions are judged beside a relay's own billing, and nothing is moved (§13)."""

    def __post_init__(self) -> None:
        checks.quota("trust_quota", self.trust_quota)
        checks.whole("trust_max_inflight", self.trust_max_inflight, 0, 1_000_000)
        checks.whole("hold_ttl", self.hold_ttl, 1, MAX_SECONDS)
        checks.whole("max_settle_quota", self.max_settle_quota, 0, MAX_QUOTA)
        if self.record_usage is not None:
            checks.flag("record_usage", self.record_usage)
        checks.flag("announce", self.announce)
        checks.flag("cache_deltas", self.cache_deltas)
        checks.flag("shadow", self.shadow)
        checks.whole("publish_timeout", self.publish_timeout, 1, 60)
        checks.whole("intent_grace", self.intent_grace, 0, MAX_SECONDS)
        checks.whole("wallet_low_quota", self.wallet_low_quota, 0, MAX_QUOTA)
        checks.whole("subscription_low_percent", self.subscription_low_percent, 0, 99)
        for field, words in (
            ("hold_expiry", HoldExpiry),
            ("subscription_overflow", SubscriptionOverflow),
            ("durability", Durability),
            ("accounts", Accounts),
            ("subscription_calendar", Calendar),
        ):
            value = getattr(self, field)
            if value not in list(words):
                raise InvalidRequest(field, f"must be one of {', '.join(words)}, got {value!r:.80}")
            object.__setattr__(self, field, words(value))
        _ = self.zone

    @property
    def counts_usage(self) -> bool:
        """Whether a settle counts into the user's usage: `record_usage`, or what follows where that is unset."""
        return self.accounts is Accounts.OWN if self.record_usage is None else self.record_usage

    @property
    def zone(self) -> tzinfo:
        """The zone that `timezone` names."""
        name = checks.text("timezone", self.timezone, 1, 64)
        if name == "UTC":
            return UTC
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise InvalidRequest("timezone", f"{name!r} is not a time zone known on this machine") from error

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of all values, in the order of their declaration."""
        return tuple(field.name for field in fields(cls))
