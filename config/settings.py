"""The only reader of the environment: everything an operator can set, prefix `BILLING_`."""

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.policy import Durability, HoldExpiry, Policy, SubscriptionOverflow
from relay_billing.publisher import broker_options
from relay_billing.store.drivers import engine_of

_DEFAULT = Policy()


class Settings(BaseSettings):
    """Each field is read from `BILLING_<NAME>`, or from a `.env` file; the description is README's."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", env_file=".env", extra="ignore", frozen=True)

    database_url: str = Field("sqlite:///var/billing.db", description="The ledger's database")
    broker_url: str = Field(
        "filesystem://var/broker", description="The queue: redis://, amqp:// or filesystem://FOLDER"
    )
    var_dir: str = Field("var", description="Folder for the beat schedule and the worker's heartbeat")
    log_format: Literal["console", "json"] = Field("console", description="How workers write their log")

    trust_quota: int = Field(_DEFAULT.trust_quota, description="Quota above which a wallet is not held; 0: never")
    trust_max_inflight: int = Field(
        _DEFAULT.trust_max_inflight, description="Open trusted sessions a user; 0: no limit"
    )
    hold_ttl: int = Field(_DEFAULT.hold_ttl, description="Seconds until a hold nobody closed ends")
    hold_expiry: HoldExpiry = Field(_DEFAULT.hold_expiry, description="release or charge what then is held")
    subscription_overflow: SubscriptionOverflow = Field(
        _DEFAULT.subscription_overflow, description="overdraw, wallet or reject a settle above what is left"
    )
    max_settle_quota: int = Field(
        _DEFAULT.max_settle_quota, description="Quota above which a settle is parked; 0: none"
    )
    record_usage: bool = Field(_DEFAULT.record_usage, description="Count used_quota and request_count of users")
    timezone: str = Field(_DEFAULT.timezone, description="Zone in which subscription periods begin")
    durability: Durability = Field(_DEFAULT.durability, description="database (intent first) or broker (confirm first)")
    publish_timeout: int = Field(_DEFAULT.publish_timeout, description="Seconds a publish may take")
    intent_grace: int = Field(_DEFAULT.intent_grace, description="Seconds before the sweep applies an intent")

    sweep_interval: int = Field(10, ge=1, description="Seconds between sweeps of intents and expired holds")
    subscriptions_interval: int = Field(60, ge=1, description="Seconds between looks at subscription periods")
    reconcile_interval: int = Field(3600, ge=1, description="Seconds between proofs of the books")
    unknown_session_retries: int = Field(3, ge=0, le=6, description="Tries again of a job whose session is not there")
    visibility_timeout: int = Field(20, ge=15, description="Seconds after which Redis gives a job to another worker")
    retention_days: int = Field(90, ge=1, le=3650, description="Days that closed sessions and their ledger rows stay")
    purge_interval: int = Field(3600, ge=1, description="Seconds between removals of what is older")

    @property
    def policy(self) -> Policy:
        """The knobs of the contract."""
        return Policy(**{name: getattr(self, name) for name in Policy.field_names()})


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it."""


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
