"""The settings: everything that an operator can set in the environment, prefix `BILLING_`. Nothing else reads it."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from relay_billing.broker.options import broker_options
from relay_billing.domain import checks
from relay_billing.domain.choices import Durability, HoldExpiry, SubscriptionOverflow
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.ownership import Accounts, Calendar
from relay_billing.domain.policy import Policy
from relay_billing.store.drivers import engine_of

_DEFAULT = Policy()

SHORTEST_SECRET = 16
MAX_URL = 2_048


class Settings(BaseSettings):
    """Each field is read from `BILLING_<NAME>`, or from a `.env` file; the description is that of docs/settings.md."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", env_file=".env", extra="ignore", frozen=True)

    database_url: str = Field(
        "sqlite:///var/billing.db",
        description="The database: `postgresql://user:password@host/name`, `mysql://…`, or `sqlite:///FILE`",
    )
    broker_url: str = Field(
        "filesystem://var/broker",
        description="The queue: `redis://`, `rediss://`, `amqp://`, `amqps://` or `filesystem://FOLDER`",
    )
    var_dir: str = Field("var", description="Folder of beat's schedule and of the processes' heartbeat files")
    log_format: Literal["console", "json"] = Field(
        "console", description="How workers write their log: `console` or `json`"
    )
    flower_basic_auth: SecretStr = Field(
        SecretStr(""), description="Users of Flower: `user:password`, separated by commas; unset: Flower does not start"
    )

    metrics_port: int = Field(
        9808, ge=0, le=65_535, description="Port of a worker's `/metrics` and `/ready`; 0: no port is opened"
    )
    metrics_address: str = Field(
        "127.0.0.1", description="Address on which that port is open, without a password; `0.0.0.0` in a container"
    )

    api_address: str = Field(
        "127.0.0.1",
        description="Address of the [HTTP door](http.md); on any but a loopback address it needs a key to start",
    )
    api_port: int = Field(8090, ge=0, le=65_535, description="Port of the HTTP door; 0: any that is free")
    api_max_inflight: int = Field(
        1_000, ge=1, le=100_000, description="Requests that one HTTP door has in hand; one more is answered 503"
    )

    new_api_redis_url: str = Field(
        "",
        description="Redis of a new-api relay, whose caches then follow our movements: `redis://host/0`; unset: none",
    )
    new_api_crypto_secret: SecretStr = Field(
        SecretStr(""),
        description="That relay's `CRYPTO_SECRET`, which names its tokens' caches",
    )

    trust_quota: int = Field(
        _DEFAULT.trust_quota,
        description="Quota; where wallet and token both have more, nothing is held; 0: every request is held",
    )
    trust_max_inflight: int = Field(
        _DEFAULT.trust_max_inflight, description="Open sessions without a hold that a user may have; 0: no limit"
    )
    hold_ttl: int = Field(
        _DEFAULT.hold_ttl,
        description="Seconds until a hold that nobody closed expires; keep it above the relay's longest retries",
    )
    hold_expiry: HoldExpiry = Field(
        _DEFAULT.hold_expiry,
        description="What becomes of an expired hold: `release` gives it back, `charge` keeps it as the price",
    )
    subscription_overflow: SubscriptionOverflow = Field(
        _DEFAULT.subscription_overflow,
        description="A settle above what a subscription has left: `overdraw`, the rest from the `wallet`, `reject`",
    )
    max_settle_quota: int = Field(
        _DEFAULT.max_settle_quota, description="Quota; a settle above it is parked for an operator; 0: no limit"
    )
    accounts: Accounts = Field(
        _DEFAULT.accounts,
        description="Whose account tables these are: `own`, or `new-api`, a relay's that goes on working beside us",
    )
    record_usage: bool | None = Field(
        _DEFAULT.record_usage,
        description="Whether settles count into `used_quota` and `request_count`; unset: with `own` accounts alone",
    )
    timezone: str = Field(_DEFAULT.timezone, description="IANA time zone in which subscription periods begin")
    subscription_calendar: Calendar = Field(
        _DEFAULT.subscription_calendar,
        description="Who resets and ends subscriptions: `own`, or `external`, another program, as new-api's master",
    )
    durability: Durability = Field(
        _DEFAULT.durability,
        description="What makes a settle or refund safe: `database` (its intent) or `broker` (a confirmation)",
    )
    publish_timeout: int = Field(
        _DEFAULT.publish_timeout, description="Seconds that a relay waits for the broker's answer"
    )
    intent_grace: int = Field(
        _DEFAULT.intent_grace, description="Seconds after which the sweep applies an intent whose job never came"
    )
    announce: bool = Field(
        _DEFAULT.announce,
        description="Whether events are written for sending; always on where `BILLING_WEBHOOK_URL` is set",
    )
    cache_deltas: bool = Field(
        _DEFAULT.cache_deltas,
        description="Whether movements are kept for a relay's caches; always on with `BILLING_NEW_API_REDIS_URL`",
    )
    wallet_low_quota: int = Field(
        _DEFAULT.wallet_low_quota,
        description="Quota; a wallet that falls to this, or below, is announced as `wallet.low`; 0: never",
    )
    subscription_low_percent: int = Field(
        _DEFAULT.subscription_low_percent,
        description="Percent; a subscription with this much left or less is announced as `subscription.low`; 0: never",
    )
    shadow: bool = Field(
        _DEFAULT.shadow,
        description="Whether requests are judged beside the relay's own billing; nothing moves ([page](migrating.md))",
    )

    webhook_url: str = Field(
        "",
        description="URL to which events are sent, `https://host/path`; unset: none is sent ([webhooks](webhooks.md))",
    )

    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Keys that sign webhooks, 16 ASCII characters or more each, the newest first, separated by commas",
    )
    webhook_allow_private: bool = Field(
        False, description="Whether the webhook's host may have a private, loopback or link-local address"
    )
    webhook_interval: int = Field(5, ge=1, description="Seconds between runs of the task that sends webhooks")
    caches_interval: int = Field(1, ge=1, description="Seconds between runs of the task that changes a relay's caches")
    sweep_interval: int = Field(10, ge=1, description="Seconds between sweeps of intents and expired holds")
    subscriptions_interval: int = Field(
        60, ge=1, description="Seconds between runs of the task that begins due periods and ends subscriptions"
    )
    reconcile_interval: int = Field(3600, ge=1, description="Seconds between reconciliations")
    unknown_session_retries: int = Field(
        3, ge=0, le=6, description="Retries of a job whose session is not there yet, 1 s to 8 s apart"
    )
    visibility_timeout: int = Field(
        20, ge=15, description="Seconds after which Redis gives a lost worker's jobs to another worker"
    )
    retention_days: int = Field(
        90, ge=1, le=3650, description="Days that closed sessions and their ledger rows are kept"
    )
    purge_interval: int = Field(3600, ge=1, description="Seconds between purges of older ones")

    @field_validator("record_usage", mode="before")
    @classmethod
    def _unset(cls, value: object) -> object:
        """An empty value is unset: `BILLING_RECORD_USAGE=`."""
        return None if value == "" else value

    @property
    def policy(self) -> Policy:
        """The policy that these settings make; `announce` and `cache_deltas` are on where their URLs are set."""
        values = {name: getattr(self, name) for name in Policy.field_names()}
        announce = self.announce or bool(self.webhook_url)
        cache_deltas = self.cache_deltas or bool(self.new_api_redis_url)
        return Policy(**{**values, "announce": announce, "cache_deltas": cache_deltas})

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The keys that sign webhooks, the newest first."""
        given = self.webhook_secret.get_secret_value().split(",")
        return tuple(each.strip() for each in given if each.strip())

    @classmethod
    def sources(cls) -> dict[str, str]:
        """Where each setting comes from: `environment`, `.env` or `default`."""
        environment, file = EnvSettingsSource(cls)(), DotEnvSettingsSource(cls)()
        return {
            name: "environment" if name in environment else ".env" if name in file else "default"
            for name in cls.model_fields
        }


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it."""


def _check_webhook(settings: Settings) -> None:
    if not settings.webhook_url:
        return
    _check_webhook_url(settings.webhook_url)
    if not settings.webhook_secrets:
        raise InvalidRequest("webhook_secret", "must be set where BILLING_WEBHOOK_URL is: what is sent is signed")
    for number, secret in enumerate(settings.webhook_secrets, 1):
        if len(secret) < SHORTEST_SECRET or not secret.isascii():
            raise InvalidRequest("webhook_secret", f"key {number} must be ASCII, {SHORTEST_SECRET} characters or more")


def _check_webhook_url(webhook_url: str) -> None:
    # The URL itself is left out of the message: its path may be a secret.
    checks.text("webhook_url", webhook_url, 1, MAX_URL)
    try:
        parts = urlsplit(webhook_url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, named = urlsplit(""), False
    if not named or not webhook_url.isascii() or any(each <= " " or each == "\x7f" for each in webhook_url):
        raise InvalidRequest("webhook_url", "must be like https://host/path, in printable ASCII without spaces")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("webhook_url", "must hold no user or password: events are signed instead")


def _check_redis(settings: Settings) -> None:
    if not settings.new_api_redis_url:
        return
    if urlsplit(settings.new_api_redis_url).scheme not in ("redis", "rediss"):
        raise InvalidRequest("new_api_redis_url", "must be like redis://host/0 or rediss://host/0")
    if not settings.new_api_crypto_secret.get_secret_value():
        raise InvalidRequest("new_api_crypto_secret", "must be set where BILLING_NEW_API_REDIS_URL is")


def load() -> Settings:
    """Read and check all settings. Raises SettingsError."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removeprefix("billing_")
        raise SettingsError(f"BILLING_{name.upper()}: {first['msg']}, got {first['input']!r}") from error
    try:
        broker_options(settings.broker_url)
        engine_of(settings.database_url)
        _ = settings.policy
        _check_webhook(settings)
        _check_redis(settings)
    except InvalidRequest as error:
        raise SettingsError(f"BILLING_{error.field.upper()}: {error.problem}") from error
    except ModuleNotFoundError as error:
        raise SettingsError(f"BILLING_DATABASE_URL: its driver is not installed: {error}") from error
    return settings
