"""The only reader of the environment: everything an operator can set, prefix `BILLING_`."""

from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.policy import Durability, HoldExpiry, Policy, SubscriptionOverflow
from relay_billing.publisher import broker_options
from relay_billing.store.drivers import engine_of

_DEFAULT = Policy()

SHORTEST_SECRET = 16


class Settings(BaseSettings):
    """Each field is read from `BILLING_<NAME>`, or from a `.env` file; the description is README's."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", env_file=".env", extra="ignore", frozen=True)

    database_url: str = Field(
        "sqlite:///var/billing.db",
        description="Where the books are: `postgresql://user:password@host/name`, or `sqlite:///FILE`",
    )
    broker_url: str = Field(
        "filesystem://var/broker",
        description="The queue: `redis://`, `rediss://`, `amqp://`, `amqps://` or `filesystem://FOLDER`",
    )
    var_dir: str = Field("var", description="Folder of the beat schedule and the signs of life")
    log_format: Literal["console", "json"] = Field(
        "console", description="How workers write their log: `console` or `json`"
    )
    flower_basic_auth: SecretStr = Field(
        SecretStr(""), description="Who may see Flower: `user:password`, with commas between; unset: it does not start"
    )

    metrics_port: int = Field(9808, ge=0, le=65_535, description="Port of a worker's `/metrics` and `/ready`; 0: none")
    metrics_address: str = Field(
        "127.0.0.1", description="Address of that port; `0.0.0.0` in a container, for it asks for no password"
    )

    trust_quota: int = Field(
        _DEFAULT.trust_quota,
        description="Quota; a wallet and a token with more are not held at all; 0: everybody is held",
    )
    trust_max_inflight: int = Field(
        _DEFAULT.trust_max_inflight, description="Open sessions a user may have without a hold; 0: no limit"
    )
    hold_ttl: int = Field(
        _DEFAULT.hold_ttl,
        description="Seconds until a hold that nobody closed ends; above the relay's longest retry ladder",
    )
    hold_expiry: HoldExpiry = Field(
        _DEFAULT.hold_expiry, description="`release` gives such a hold back, `charge` keeps it"
    )
    subscription_overflow: SubscriptionOverflow = Field(
        _DEFAULT.subscription_overflow,
        description="A settle above what is left: `overdraw`, take the rest from the `wallet`, or `reject`",
    )
    max_settle_quota: int = Field(
        _DEFAULT.max_settle_quota, description="Quota; a settle above it waits for an operator; 0: no limit"
    )
    record_usage: bool = Field(
        _DEFAULT.record_usage,
        description="Count `used_quota` and `request_count` of users; `false` where the relay does",
    )
    timezone: str = Field(_DEFAULT.timezone, description="Zone in which subscription periods begin")
    durability: Durability = Field(
        _DEFAULT.durability,
        description="What makes a settle safe: `database` (the intent on its row) or `broker` (its confirmation)",
    )
    publish_timeout: int = Field(
        _DEFAULT.publish_timeout, description="Seconds that the broker may take to answer a relay"
    )
    intent_grace: int = Field(
        _DEFAULT.intent_grace, description="Seconds after which the sweep applies an intent whose job never came"
    )
    webhook_url: str = Field(
        _DEFAULT.webhook_url,
        description="Where events are told, `https://host/path`; unset: nothing is told ([webhooks](docs/webhooks.md))",
    )
    wallet_low_quota: int = Field(
        _DEFAULT.wallet_low_quota,
        description="Quota; a wallet that falls to it is told as `wallet.low`; 0: only one that is used up",
    )
    subscription_low_percent: int = Field(
        _DEFAULT.subscription_low_percent,
        description="Percent; a subscription with no more left is told as `subscription.low`; 0: never",
    )

    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Keys that sign what is told, 16 characters or more, the newest first, with commas between them",
    )
    webhook_allow_private: bool = Field(
        False, description="Whether the webhook may be at a private, loopback or link-local address"
    )
    webhook_interval: int = Field(5, ge=1, description="Seconds between looks at what is to be told")
    sweep_interval: int = Field(10, ge=1, description="Seconds between sweeps of intents and expired holds")
    subscriptions_interval: int = Field(60, ge=1, description="Seconds between looks at the calendar of subscriptions")
    reconcile_interval: int = Field(3600, ge=1, description="Seconds between proofs of the books")
    unknown_session_retries: int = Field(
        3, ge=0, le=6, description="Times that a job without a session is tried again, from 1 s apart to 8 s"
    )
    visibility_timeout: int = Field(
        20, ge=15, description="Seconds after which Redis gives a lost worker's jobs to another one"
    )
    retention_days: int = Field(
        90, ge=1, le=3650, description="Days that closed sessions and their ledger rows are kept"
    )
    purge_interval: int = Field(3600, ge=1, description="Seconds between removals of older ones")

    @property
    def policy(self) -> Policy:
        """The knobs of the contract."""
        return Policy(**{name: getattr(self, name) for name in Policy.field_names()})

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The keys that sign, the newest first."""
        given = self.webhook_secret.get_secret_value().split(",")
        return tuple(each.strip() for each in given if each.strip())


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it."""


def sources() -> dict[str, str]:
    """Where each setting comes from: `environment`, `.env` or `default`."""
    environment, file = EnvSettingsSource(Settings)(), DotEnvSettingsSource(Settings)()
    return {
        name: "environment" if name in environment else ".env" if name in file else "default"
        for name in Settings.model_fields
    }


def _check_webhook_secrets(settings: Settings) -> None:
    if settings.webhook_url and not settings.webhook_secrets:
        raise InvalidRequest("webhook_secret", "must be set where BILLING_WEBHOOK_URL is: what is told is signed")
    for number, secret in enumerate(settings.webhook_secrets, 1):
        if len(secret) < SHORTEST_SECRET or not secret.isascii():
            raise InvalidRequest("webhook_secret", f"key {number} must be ASCII, {SHORTEST_SECRET} characters or more")


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
        _check_webhook_secrets(settings)
    except InvalidRequest as error:
        raise SettingsError(f"BILLING_{error.field.upper()}: {error.problem}") from error
    except ModuleNotFoundError as error:
        raise SettingsError(f"BILLING_DATABASE_URL: its driver is not installed: {error}") from error
    return settings
