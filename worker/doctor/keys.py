"""Rows that are there twice, and rows whose owner is gone."""

from collections.abc import Iterator

from sqlalchemy import ColumnElement, Executable, Table, column, exists, func, select, true

from relay_billing.schema import metadata, subscription_plans, tokens, user_subscriptions, users
from worker.doctor.finding import Finding, Status
from worker.doctor.subject import Subject
from worker.doctor.tally import tally

MOST_SHOWN = 1_000
"""Doubles counted at most."""


def duplicates(subject: Subject) -> Iterator[Finding]:
    """Ids, keys and user names that are there twice. A unique index is believed; else they are counted."""
    unique = subject.tables.unique
    looked = [(table, "id") for table in subject.tables.accounts]
    looked += [
        each
        for each in (("tokens", "key"), ("users", "username"))
        if each[1] in subject.tables.columns.get(each[0], {})
    ]
    counted = tally(
        subject.reading,
        [(f"doubles of {table}.{name}", _doubles(table, name)) for table, name in looked if name not in unique[table]],
    )
    for label, count in counted.found.items():
        bad = label != "users.username"
        more = "or more " if count == MOST_SHOWN else ""
        sentence = f"{count:,} {more}values of {label} are there twice" + (
            ": a charge could meet both rows" if bad else ""
        )
        hint = "Remove the doubles and add a unique index" if bad else "Nothing: accounts are found by id"
        yield Finding(Status.RED if bad else Status.YELLOW, sentence, hint)
    for table in subject.tables.accounts:
        if "id" not in unique[table]:
            sentence = f"{table}.id has no primary key or unique index: every request reads the whole table"
            yield Finding(Status.RED, sentence, f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
    if not counted.found and not counted.late and subject.tables.accounts:
        yield Finding(Status.GREEN, "no id, key or user name is there twice")
    yield from counted.late


def _doubles(table: str, name: str) -> Executable:
    given = metadata.tables[table].c[name]
    # Many rows may be without a name or key.
    named: ColumnElement[bool] = given.is_not(None) if name == "id" else given != ""
    twice = select(given).where(named).group_by(given).having(func.count() > 1).limit(MOST_SHOWN).subquery()
    return select(func.count().label(f"{table}.{name}")).select_from(twice)


def orphans(subject: Subject) -> Iterator[Finding]:
    """Tokens and subscriptions without their user, subscriptions without their plan."""
    have = subject.tables.columns
    alive = column("deleted_at").is_(None) if "deleted_at" in have.get("tokens", {}) else true()
    active = user_subscriptions.c.status == "active"
    looked = (
        ("tokens without a user", tokens, tokens.c.user_id, users, alive),
        ("subscriptions without a user", user_subscriptions, user_subscriptions.c.user_id, users, true()),
        (
            "active subscriptions without a plan",
            user_subscriptions,
            user_subscriptions.c.plan_id,
            subscription_plans,
            active,
        ),
    )
    counts = [
        (label, _lost(label, table, owner, of, among))
        for label, table, owner, of, among in looked
        if {table.name, of.name} <= set(have)
    ]
    counted = tally(subject.reading, counts)
    if counted.found:
        hint = "Delete what is left over; a subscription without its plan is never reset"
        yield Finding(Status.YELLOW, counted.listed, hint)
    elif counts and not counted.late:
        yield Finding(Status.GREEN, "every token and subscription has its user and plan")
    yield from counted.late


def _lost(label: str, table: Table, owner: ColumnElement[int], of: Table, among: ColumnElement[bool]) -> Executable:
    owned = exists().where(of.c.id == owner)
    return select(func.count().label(label)).select_from(table).where(~owned, among)
