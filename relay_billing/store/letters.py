"""Statements on dead letters, and on the count of deliveries that lost their worker."""

import hashlib
import json
from collections.abc import Sequence

from sqlalchemy import delete, select, update

from relay_billing.domain.jobs import Answer, Job, reason_of, task_of
from relay_billing.schema import billing_dead_letters, billing_deliveries
from relay_billing.store.commands import Command
from relay_billing.store.dialects import Dialect

MAX_TASK = 64


def letter_of(answer: Answer) -> dict[str, object]:
    """The dead letter of a job that was judged and could not be applied."""
    return letter(answer.job, reason_of(answer), answer.detail, answer.user_id, answer.at_stake)


def letter(job: Job, reason: str, detail: str, user_id: int | None, quota: int) -> dict[str, object]:
    """A row of `billing_dead_letters` for one job."""
    return raw_letter(task_of(job), job.wire(), reason, detail, job.request_id, user_id, quota)


def raw_letter(
    task: str,
    job: object,
    reason: str,
    detail: str,
    request_id: str | None = None,
    user_id: int | None = None,
    quota: int = 0,
) -> dict[str, object]:
    """A row of `billing_dead_letters` for whatever came over the queue."""
    body = _json(job)
    return {
        "task": storable(task)[:MAX_TASK],
        "request_id": request_id,
        "user_id": user_id,
        "reason": reason,
        "detail": storable(detail),
        "job": body,
        "quota": quota,
        "fingerprint": fingerprint(task, reason, body),
    }


def _json(job: object) -> str:
    return json.dumps(job, sort_keys=True, default=str)


def fingerprint(*parts: str) -> str:
    """The same for the same parts, and short enough for a key."""
    return hashlib.sha256("\n".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


def storable(words: str) -> str:
    """Text as every database takes it: foreign messages may hold NUL and half surrogate pairs."""
    return words.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def dead_letters(dialect: Dialect, letters: Sequence[dict[str, object]], now_ms: int) -> Command:
    """Keep letters; one met before is counted, not doubled."""
    insert = dialect.insert(billing_dead_letters)
    table = billing_dead_letters.c
    statement = insert.on_conflict_do_update(
        index_elements=[table.fingerprint],
        # Met again after an operator had dealt with it: it is open again.
        set_={
            "deliveries": table.deliveries + 1,
            "last_at": insert.excluded.last_at,
            "resolution": None,
            "resolved_at": None,
        },
    )
    rows = [{**each, "created_at": now_ms, "last_at": now_ms} for each in letters]
    return Command(statement, sorted(rows, key=lambda each: str(each["fingerprint"])))


def resolve(letter_id: int, resolution: str, note: str | None, now_ms: int) -> Command:
    """Say what an operator did about a letter; one that is dealt with already stays as it is."""
    c = billing_dead_letters.c
    open_one = update(billing_dead_letters).where(c.id == letter_id, c.resolved_at.is_(None))
    return Command(open_one.values(resolution=resolution, resolved_at=now_ms, note=note))


def count_delivery(dialect: Dialect, key: str, now_ms: int) -> Command:
    """Count one more delivery; `deliveries_of` reads the count."""
    insert = dialect.insert(billing_deliveries).values(fingerprint=key, deliveries=1, last_at=now_ms)
    again = {"deliveries": billing_deliveries.c.deliveries + 1, "last_at": now_ms}
    return Command(insert.on_conflict_do_update(index_elements=[billing_deliveries.c.fingerprint], set_=again))


def deliveries_of(key: str) -> Command:
    """How often it was delivered."""
    c = billing_deliveries.c
    return Command(select(c.deliveries).where(c.fingerprint == key))


def forget_delivery(key: str) -> Command:
    """It is dealt with: its count goes."""
    return Command(delete(billing_deliveries).where(billing_deliveries.c.fingerprint == key))
