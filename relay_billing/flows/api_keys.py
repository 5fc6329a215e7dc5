"""The HTTP door's keys: made, listed and revoked, by their digests."""

from collections.abc import Sequence

from sqlalchemy import select, update

from relay_billing.domain import checks
from relay_billing.domain.api_keys import ApiKey, Scope
from relay_billing.domain.errors import InvalidRequest
from relay_billing.flows.context import Context
from relay_billing.flows.key_checks import SHOWN, key_of
from relay_billing.schema import billing_api_keys
from relay_billing.store.commands import Command, Steps

MAX_LISTED = 10_000
MAX_NAME = 64

_C = billing_api_keys.c


def create(context: Context, name: str, scopes: Sequence[Scope], sha256: str, expires_at: int | None) -> Steps[ApiKey]:
    """Keep the digest of a new key. `expires_at`: Unix milliseconds; None: never.

    Raises InvalidRequest without a scope, for an end that has passed, and for the name of a key that is not revoked.
    """
    checks.text("name", name, 1, MAX_NAME)
    if not scopes:
        raise InvalidRequest("scopes", "a key needs at least one")
    if expires_at is not None and expires_at <= context.now_ms:
        raise InvalidRequest("expires_at", "has passed already")
    (same,) = yield [Command(select(_C.id).where(_C.name == name, _C.revoked_at.is_(None)))]
    if same.rows:
        raise InvalidRequest("name", f"there is a key {name!r} already: revoke it, or choose another name")
    # In the order of `Scope`, each once.
    words = ",".join(scope for scope in Scope if scope in scopes)
    values = {"name": name, "sha256": sha256, "scopes": words, "created_at": context.now_ms, "expires_at": expires_at}
    yield [Command(billing_api_keys.insert().values(values))]
    (made,) = yield [Command(select(*SHOWN).where(_C.sha256 == sha256))]
    return key_of(made.rows[0])


def find_all(context: Context) -> Steps[list[ApiKey]]:
    """All keys, the oldest first, those that open nothing any more included."""
    (found,) = yield [Command(select(*SHOWN).order_by(_C.id).limit(MAX_LISTED))]
    return [key_of(row) for row in found.rows]


def revoke(context: Context, name: str) -> Steps[bool]:
    """Revoke the key of this name; False: no such key, or it was revoked before."""
    revoked = update(billing_api_keys).where(_C.name == name, _C.revoked_at.is_(None))
    (done,) = yield [Command(revoked.values(revoked_at=context.now_ms))]
    return done.count > 0
