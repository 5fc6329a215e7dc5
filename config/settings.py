"""The only reader of the environment: everything an operator can set, prefix `BILLING_`."""

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.policy import Durability, HoldExpiry, Policy, SubscriptionOverflow
from relay_billing.publisher import broker_options
from relay_billing.store.drivers import engine_of

_DEFAULT = Policy()


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


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it."""


def sources() -> dict[str, str]:
    """Where each setting comes from: `environment`, `.env` or `default`."""
    environment, file = EnvSettingsSource(Settings)(), DotEnvSettingsSource(Settings)()
    return {
        name: "environment" if name in environment else ".env" if name in file else "default"
        for name in Settings.model_fields
    }


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
    except InvalidRequest as error:
        raise SettingsError(f"BILLING_{error.field.upper()}: {error.problem}") from error
    except ModuleNotFoundError as error:
        raise SettingsError(f"BILLING_DATABASE_URL: its driver is not installed: {error}") from error
    return settings
