"""Every knob of the contract, with unit, default and its reason."""

from dataclasses import dataclass, fields
from datetime import UTC, tzinfo
from enum import StrEnum
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from relay_billing.domain import inputs
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.money import MAX_QUOTA

MAX_SECONDS = 10 * 366 * 86_400
MAX_URL = 2_048


class SubscriptionOverflow(StrEnum):
    """What a settle does that needs more than its subscription has left (semantics §5)."""

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


@dataclass(frozen=True, slots=True)
class Policy:
    """How the contract is carried out. Relay and worker must be given the same one.

    Raises InvalidRequest, naming the field, for a value that makes no sense.
    """

    trust_quota: int = 5_000_000
    """Quota. A wallet with strictly more is not held at all; 0: everybody is held. 10 USD, as relays have it (§3.4)."""
    trust_max_inflight: int = 0
    """Open trusted sessions a user may have before holds are taken after all; 0: no limit (§3.4)."""
    hold_ttl: int = 3_600
    """Seconds until a hold that nobody closed ends. Keep it above the relay's longest retry ladder (§8)."""
    hold_expiry: HoldExpiry = HoldExpiry.RELEASE
    """`release` gives such a hold back, `charge` keeps it as the price (§8)."""
    subscription_overflow: SubscriptionOverflow = SubscriptionOverflow.OVERDRAW
    """`overdraw`, `wallet` or `reject`: a settle above what the subscription has left (§5)."""
    max_settle_quota: int = 500_000_000
    """Quota. A settle above it is parked as implausible; 0: no limit. 1,000 USD: no honest request costs that (§5)."""
    record_usage: bool = True
    """Whether a settle counts into `users.used_quota` and `request_count`; off where the relay counts itself (§5)."""
    timezone: str = "UTC"
    """IANA zone in which daily, weekly and monthly periods begin (§7)."""
    durability: Durability = Durability.DATABASE
    """`database`: the intent is written before the job is posted. `broker`: only where posting fails (§9)."""
    publish_timeout: int = 2
    """Seconds a settle or refund may wait for the broker (§9)."""
    intent_grace: int = 30
    """Seconds an intent may wait for its message before the sweep applies it (§9)."""
    webhook_url: str = ""
    """Where events are told, `http://` or `https://`; unset: nothing is told, and nothing is written to be told."""
    wallet_low_quota: int = 500_000
    """Quota. A wallet that falls to it, or below, is told as `wallet.low`; 0: only that it is used up. 1 USD."""
    subscription_low_percent: int = 10
    """Percent. A subscription with no more than that left is told as `subscription.low`; 0: never."""

    def __post_init__(self) -> None:
        inputs.quota("trust_quota", self.trust_quota)
        inputs.whole("trust_max_inflight", self.trust_max_inflight, 0, 1_000_000)
        inputs.whole("hold_ttl", self.hold_ttl, 1, MAX_SECONDS)
        inputs.whole("max_settle_quota", self.max_settle_quota, 0, MAX_QUOTA)
        inputs.flag("record_usage", self.record_usage)
        inputs.whole("publish_timeout", self.publish_timeout, 1, 60)
        inputs.whole("intent_grace", self.intent_grace, 0, MAX_SECONDS)
        inputs.whole("wallet_low_quota", self.wallet_low_quota, 0, MAX_QUOTA)
        inputs.whole("subscription_low_percent", self.subscription_low_percent, 0, 99)
        self._check_webhook_url()
        for field, words in (
            ("hold_expiry", HoldExpiry),
            ("subscription_overflow", SubscriptionOverflow),
            ("durability", Durability),
        ):
            value = getattr(self, field)
            if value not in list(words):
                raise InvalidRequest(field, f"must be one of {', '.join(words)}, got {value!r:.80}")
            object.__setattr__(self, field, words(value))
        _ = self.zone

    def _check_webhook_url(self) -> None:
        # The URL itself is left out of the message: its path may be a secret.
        if not inputs.text("webhook_url", self.webhook_url, 0, MAX_URL):
            return
        try:
            parts = urlsplit(self.webhook_url)
            named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            parts, named = urlsplit(""), False
        if not named or not self.webhook_url.isascii() or any(each <= " " for each in self.webhook_url):
            raise InvalidRequest("webhook_url", "must be like https://host/path, in ASCII without spaces")
        if parts.username is not None or parts.password is not None:
            raise InvalidRequest("webhook_url", "must hold no user or password: events are signed instead")

    @property
    def zone(self) -> tzinfo:
        """The zone that `timezone` names."""
        name = inputs.text("timezone", self.timezone, 1, 64)
        if name == "UTC":
            return UTC
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise InvalidRequest("timezone", f"{name!r} is not a time zone known on this machine") from error

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of all knobs, in the order of their declaration."""
        return tuple(field.name for field in fields(cls))
