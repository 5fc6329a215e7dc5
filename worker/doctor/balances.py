"""What is in the account tables and would surprise: NULLs, and balances below 0."""

from collections.abc import Iterator

from sqlalchemy import select

from relay_billing.schema import metadata, tokens, user_subscriptions, users
from worker.doctor.columns import MONEY
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject
from worker.doctor.tally import how_many, tally

UNCOUNTED = ("id", "username", "name", "key", "title")
"""Columns that are only shown: a NULL there is an empty name."""


def nulls(subject: Subject) -> Iterator[Finding]:
    """NULLs where the worker reads a value."""
    statements = []
    for table in subject.tables.accounts:
        columns = subject.tables.columns[table]
        looked = [
            each
            for each in metadata.tables[table].columns
            if each.name not in UNCOUNTED and each.name in columns and columns[each.name].nullable
        ]
        if looked:
            counts = [how_many(each.is_(None), f"{table}.{each.name}") for each in looked]
            statements.append((f"NULLs in {table}", select(*counts)))
    counted = tally(subject.reading, statements)
    if counted.found and subject.asked.null_counts_as_zero:
        yield Finding(Status.YELLOW, f"NULL: {counted.listed}; amounts among them count as 0")
    elif counted.found:
        money = any(label in counted.found for label in _labels())
        sentence = f"NULL: {counted.listed}" + ("; a batch that meets such an amount fails" if money else "")
        hint = "Set amounts to 0 where they are NULL" if money else "They count as false, as 0, or as not active"
        yield Finding(Status.RED if money else Status.YELLOW, sentence, hint)
    elif subject.tables.accounts and not counted.late:
        yield Finding(Status.GREEN, "no NULL where the worker reads")
    yield from counted.late


def _labels() -> list[str]:
    return [f"{table}.{name}" for table, names in MONEY.items() for name in names]


def negatives(subject: Subject) -> Iterator[Finding]:
    """Balances below 0, and subscriptions used above what they have."""
    have = subject.tables.columns
    bounded = tokens.c.unlimited_quota.is_not(True) & (tokens.c.remain_quota < 0)
    used = user_subscriptions.c.amount_used
    over = (user_subscriptions.c.amount_total > 0) & (used > user_subscriptions.c.amount_total)
    conditions = {
        "users": {"users.quota": users.c.quota < 0, "users.used_quota": users.c.used_quota < 0},
        "tokens": {"tokens.remain_quota": bounded, "tokens.used_quota": tokens.c.used_quota < 0},
        "user_subscriptions": {"subscriptions below 0": used < 0, "subscriptions used above their total": over},
    }
    statements = [
        (f"balances of {table}", select(*(how_many(condition, label) for label, condition in looked.items())))
        for table, looked in conditions.items()
        if table in have
    ]
    counted = tally(subject.reading, statements)
    if counted.found:
        sentence = f"below 0, or above what there is: {counted.listed}; their owners are refused until they pay"
        yield Finding(Status.YELLOW, sentence, "Nothing, where you know of them; else a sign of concurrent overdraws")
    elif statements and not counted.late:
        yield Finding(Status.GREEN, "no balance is below 0")
    yield from counted.late
