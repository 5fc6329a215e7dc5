"""Keys of the HTTP door as it looks them up."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from relay_billing.domain.api_keys import ApiKey, Scope
from relay_billing.flows.context import Context
from relay_billing.schema import billing_api_keys
from relay_billing.store.commands import Command, Steps

_C = billing_api_keys.c
SHOWN = (_C.id, _C.name, _C.scopes, _C.created_at, _C.expires_at, _C.revoked_at)
"""What leaves the database of a key that is not looked up: all but its digest."""


def key_of(row: Mapping[str, Any]) -> ApiKey:
    """The key of a row of `SHOWN`."""
    scopes = tuple(Scope(word) for word in row["scopes"].split(","))
    return ApiKey(row["id"], row["name"], scopes, row["created_at"], row["expires_at"], row["revoked_at"])


def look_up(context: Context, sha256: str) -> Steps[tuple[str, ApiKey] | None]:
    """The digest as it is kept, and its key; None: there is no such key. The caller compares the digests itself."""
    (found,) = yield [Command(select(_C.sha256, *SHOWN).where(_C.sha256 == sha256))]
    return (found.rows[0]["sha256"], key_of(found.rows[0])) if found.rows else None


def any_made(context: Context) -> Steps[bool]:
    """Whether a key was ever made, a revoked or expired one included."""
    (found,) = yield [Command(select(_C.id).limit(1))]
    return bool(found.rows)
