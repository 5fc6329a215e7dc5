"""How the fast paths' text SQL reads and writes account tables of one shape (semantics §12)."""

from dataclasses import dataclass

from relay_billing.domain import fingerprints
from relay_billing.domain.accounts import ENABLED, NEVER
from relay_billing.store.account_shapes import AccountShape


@dataclass(frozen=True, slots=True)
class AccountWords:
    """The parts of statements that depend on the shape. For tables of our own, most of them are empty."""

    shape: AccountShape

    def number(self, column: str) -> str:
        """The column's amount or time; in a relay's tables NULL counts as 0."""
        return f"COALESCE({column},0)" if self.shape.foreign else column

    def flag(self, column: str) -> str:
        """The column's truth, likewise."""
        return f"COALESCE({column},false)" if self.shape.foreign else column

    def usable_user(self, alias: str) -> str:
        """The further condition on a user: not deleted, not disabled (semantics §12: else `query_data_error`)."""
        return self._deleted("users", alias) + self._status("users", alias)

    def usable_token(self, alias: str) -> str:
        """The further condition on a token: nor expired (semantics §12: else `pre_consume_token_quota_failed`)."""
        expires = f" AND ({alias}.expired_time={NEVER} OR {alias}.expired_time>%(now)s)"
        known = self.shape.has("tokens.expired_time")
        return self._deleted("tokens", alias) + self._status("tokens", alias) + (expires if known else "")

    def token_stamp(self) -> str:
        """The further assignment in an update of tokens."""
        return ",accessed_time=%(now)s" if self.shape.has("tokens.accessed_time") else ""

    def subscription_stamp(self) -> str:
        """The further assignment in an update of subscriptions."""
        return ",updated_at=%(now)s" if self.shape.has("user_subscriptions.updated_at") else ""

    def period(self, alias: str) -> str:
        """What a hold records of its period: `last_reset_time`, or `fingerprints.fingerprint` (semantics §7, §12)."""
        last, following, start = (
            self.number(f"{alias}.{name}") for name in ("last_reset_time", "next_reset_time", "start_time")
        )
        if not self.shape.external:
            return last
        begun = f"GREATEST(COALESCE(NULLIF({last},0),{start}),1)"
        return f"{begun}%%{fingerprints.TIMES // 2}*{fingerprints.TIMES}+{following}%%{fingerprints.TIMES}"

    def _deleted(self, table: str, alias: str) -> str:
        return f" AND {alias}.deleted_at IS NULL" if self.shape.has(f"{table}.deleted_at") else ""

    def _status(self, table: str, alias: str) -> str:
        return f" AND {alias}.status={ENABLED}" if self.shape.has(f"{table}.status") else ""
