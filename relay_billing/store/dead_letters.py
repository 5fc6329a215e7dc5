"""Statements on dead letters."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import update

from relay_billing.domain.dead_letters import Letter
from relay_billing.schema import billing_dead_letters
from relay_billing.store.commands import Command
from relay_billing.store.dialects import Dialect
from relay_billing.store.webhooks import letters_announced

_C = billing_dead_letters.c


def kept(dialect: Dialect, letters: Sequence[Letter], now_ms: int, *, announce: bool) -> list[Command]:
    """Keep letters. A known one only counts one more delivery; one that is open already is not announced again."""
    if not letters:
        return []
    # A resolved letter that comes again is open again.
    reopened = {"deliveries": _C.deliveries + 1, "resolution": None, "resolved_at": None}
    rows = [
        {**asdict(each), "reason": each.reason.value, "created_at": now_ms, "last_at": now_ms}
        for each in sorted(letters, key=lambda each: each.fingerprint)
    ]
    # Before the letters are written: the statement skips letters that are open already.
    announced = [letters_announced(letters, now_ms)] if announce else []
    return [*announced, dialect.upsert(_C.fingerprint, lambda new: {**reopened, "last_at": new["last_at"]}, rows)]


def resolve(letter_id: int, resolution: str, note: str | None, now_ms: int) -> Command:
    """Record what an operator did about a letter; one that is resolved already is not changed."""
    open_one = update(billing_dead_letters).where(_C.id == letter_id, _C.resolved_at.is_(None))
    return Command(open_one.values(resolution=resolution, resolved_at=now_ms, note=note))
