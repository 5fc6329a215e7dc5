"""Load and write as generators of commands. The lock order stands here, once: sessions, users, subscriptions, tokens.

A generator yields lists of commands and is sent a list of answers; `drivers` runs it on a connection, sync or async.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from sqlalchemy import RowMapping, Select, bindparam, func, or_, select, update

from relay_billing.domain.accounts import AccountType, Plan, Subscription, Token, Wallet
from relay_billing.domain.changes import Book
from relay_billing.domain.errors import UpdateDataError
from relay_billing.domain.sessions import BillingSession, Intent, State
from relay_billing.schema import (
    billing_ledger,
    billing_sessions,
    subscription_plans,
    tokens,
    user_subscriptions,
    users,
)
from relay_billing.store.commands import Command, Load, Reply
from relay_billing.store.dialects import Dialect
from relay_billing.store.letters import dead_letters, letter_of

SESSION_COLUMNS = tuple(field.name for field in fields(BillingSession))
# What a transition may change; the rest of the row is what pre-consume made of it.
MUTABLE = (
    "state",
    "pre_consumed_quota",
    "token_consumed",
    "subscription_post_delta",
    "reserves",
    "actual_quota",
    "reason",
    "token_error",
    "parked",
    "parked_reason",
    "intent",
    "intent_quota",
    "intent_reason",
    "intent_at",
    "closed_at",
)


def _locked(statement: Select[tuple[object, ...]]) -> Command:
    # NO KEY UPDATE: nothing here changes a primary key, so rows that only refer to these need not wait.
    return Command(statement.with_for_update(key_share=True))


def _session_rows(request_ids: Collection[str]) -> Select[tuple[object, ...]]:
    c = billing_sessions.c
    return select(billing_sessions).where(c.request_id.in_(sorted(request_ids))).order_by(c.request_id)


def _users(ids: Collection[int]) -> Command:
    statement = select(users.c.id, users.c.quota).where(users.c.id.in_(sorted(ids))).order_by(users.c.id)
    return _locked(statement)


def _subscriptions(clause: Select[tuple[object, ...]]) -> Command:
    return _locked(clause.order_by(user_subscriptions.c.id))


def _tokens(ids: Collection[int]) -> Command:
    c = tokens.c
    statement = select(c.id, c.user_id, c.remain_quota, c.unlimited_quota).where(c.id.in_(sorted(ids))).order_by(c.id)
    return _locked(statement)


def load_accounts(book: Book, user_ids: Collection[int], token_ids: Collection[int]) -> Load:
    """Lock all that a pre-consume of these users may take from: wallets, subscriptions with their plans, tokens."""
    c = user_subscriptions.c
    usable = select(user_subscriptions).where(c.user_id.in_(sorted(user_ids)), c.status == "active")
    plan_ids = select(c.plan_id).where(c.user_id.in_(sorted(user_ids)), c.status == "active")
    commands = [
        _users(user_ids),
        _subscriptions(usable.where(c.end_time > book.now)),
        _tokens(token_ids),
        Command(_plan_rows().where(subscription_plans.c.id.in_(plan_ids))),
    ]
    if book.policy.trust_max_inflight:
        s = billing_sessions.c
        trusted = select(s.user_id, func.count().label("open"))
        where = (s.user_id.in_(sorted(user_ids)), s.state == State.PRECONSUMED.value, s.trusted)
        commands.append(Command(trusted.where(*where).group_by(s.user_id)))
    wallets, subscriptions, keys, plans, *counts = yield commands
    fill_accounts(book, wallets, subscriptions, keys)
    book.plans.update({row["id"]: Plan(**row) for row in plans.rows})
    for reply in counts:
        book.trusted_open.update({row["user_id"]: row["open"] for row in reply.rows})


def load_wallets(book: Book, user_ids: Collection[int]) -> Load:
    """Lock wallets alone."""
    (wallets,) = yield [_users(user_ids)]
    fill_accounts(book, wallets, Reply((), 0), Reply((), 0))


def _plan_rows() -> Select[tuple[object, ...]]:
    c = subscription_plans.c
    return select(c.id, c.title, c.quota_reset_period, c.quota_reset_custom_seconds)


def fill_accounts(book: Book, wallets: Reply, subscriptions: Reply, keys: Reply) -> None:
    """Put rows of the three account tables into the book."""
    book.wallets.update({row["id"]: Wallet(**row) for row in wallets.rows})
    names = tuple(field.name for field in fields(Subscription))
    for row in subscriptions.rows:
        book.subscriptions[row["id"]] = Subscription(**{name: row[name] for name in names})
    for row in keys.rows:
        values = {**row, "unlimited_quota": bool(row["unlimited_quota"])}
        book.tokens[row["id"]] = Token(**values)


def session_of(row: RowMapping) -> BillingSession:
    """Make the domain's value of a row of `billing_sessions`."""
    values = {name: row[name] for name in SESSION_COLUMNS}
    values["state"] = State(row["state"])
    values["intent"] = None if row["intent"] is None else Intent(row["intent"])
    return BillingSession(**values)


def load_sessions(book: Book, request_ids: Collection[str], *, lock: bool) -> Load:
    """Read sessions into the book. A replay only reads them; every transition locks them first."""
    rows = _session_rows(request_ids)
    (found,) = yield [_locked(rows) if lock else Command(rows)]
    book.sessions.update({row["request_id"]: session_of(row) for row in found.rows})


def load_for_jobs(book: Book, request_ids: Collection[str]) -> Load:
    """Lock sessions, then the accounts that they were paid from."""
    yield from load_sessions(book, request_ids, lock=True)
    sessions = book.sessions.values()
    if not sessions:
        return
    own = {session.subscription_id for session in sessions if session.subscription_id is not None}
    keys = {session.token_id for session in sessions if session.token_id is not None}
    replies = yield [
        _users({session.user_id for session in sessions}),
        _subscriptions(select(user_subscriptions).where(user_subscriptions.c.id.in_(sorted(own)))),
        _tokens(keys),
    ]
    fill_accounts(book, *replies)


def load_due_subscriptions(book: Book, after_id: int, limit: int) -> Load:
    """Lock the next subscriptions whose calendar or status has to move, by id (semantics §7)."""
    c, p = user_subscriptions.c, subscription_plans.c
    periodic = select(p.id).where(p.quota_reset_period != "never")
    due = or_(
        c.end_time <= book.now,
        (c.next_reset_time > 0) & (c.next_reset_time <= book.now),
        (c.next_reset_time == 0) & c.plan_id.in_(periodic),
    )
    rows = select(user_subscriptions).where(c.id > after_id, c.status == "active", due)
    subscriptions, plans = yield [
        _subscriptions(rows.limit(limit)),
        Command(_plan_rows().where(p.quota_reset_period != "never")),
    ]
    fill_accounts(book, Reply((), 0), subscriptions, Reply((), 0))
    book.plans.update({row["id"]: Plan(**row) for row in plans.rows})


def expired_ids(now_ms: int, limit: int) -> Command:
    """Request ids of holds that nobody closed in time, oldest first; other sweepers' are skipped (semantics §8)."""
    c = billing_sessions.c
    where = (c.state == State.PRECONSUMED.value, c.expires_at < now_ms, c.intent.is_(None), c.parked.is_(False))
    rows = select(c.request_id).where(*where).order_by(c.expires_at).limit(limit)
    return Command(rows.with_for_update(key_share=True, skip_locked=True))


def waiting_ids(before_ms: int, limit: int) -> Command:
    """Request ids whose intent has waited since before `before_ms`; other sweepers' are skipped (semantics §9)."""
    c = billing_sessions.c
    states = [State.PRECONSUMED.value, State.FUNDING_SETTLED.value, State.EXPIRED.value]
    where = (c.intent.is_not(None), c.state.in_(states), c.intent_at < before_ms, c.parked.is_(False))
    rows = select(c.request_id).where(*where).order_by(c.intent_at).limit(limit)
    return Command(rows.with_for_update(key_share=True, skip_locked=True))


def write_intents(intents: Sequence[Mapping[str, object]]) -> Command:
    """Record what relays want of open sessions; the first intent of each wins (semantics §9)."""
    c = billing_sessions.c
    statement = (
        update(billing_sessions)
        .where(
            c.request_id == bindparam("of"),
            c.intent.is_(None),
            # Not IN: a list inside can't be sent with many sets of parameters.
            or_(*(c.state == state.value for state in (State.PRECONSUMED, State.EXPIRED, State.FUNDING_SETTLED))),
        )
        # A parked session is judged afresh by what comes now, the sweep included.
        .values(
            intent=bindparam("to"),
            intent_quota=bindparam("quota_"),
            intent_reason=bindparam("reason_"),
            intent_at=bindparam("at"),
            parked=False,
        )
    )
    return Command(statement, intents)


def write(book: Book, dialect: Dialect) -> Load:
    """Carry out everything the book has gathered: one statement a table, deltas and never balances."""
    commands = [*_session_writes(book), *_account_writes(book)]
    if book.entries:
        rows = [
            {
                "request_id": entry.movement.request_id,
                "account_type": entry.movement.account_type.value,
                "account_id": entry.movement.account_id,
                "kind": entry.movement.kind,
                "step": entry.movement.step,
                "amount": entry.movement.amount,
                "balance_after": entry.balance_after,
                "created_at": entry.created_at,
                "note": entry.movement.note,
            }
            for entry in book.entries
        ]
        commands.append(Command(billing_ledger.insert(), rows))
    if book.dead_letters:
        commands.append(dead_letters(dialect, [letter_of(answer) for answer in book.dead_letters], book.now_ms))
    if not commands:
        return
    replies = yield commands
    for command, reply in zip(commands, replies, strict=True):
        wanted = _rows_wanted(command)
        if wanted is not None and reply.count != wanted:
            raise UpdateDataError(f"a row moved under its lock: {wanted} rows were to change, {reply.count} did")


def _rows_wanted(command: Command) -> int | None:
    """Updates must reach every row they name; the dead letters' upsert may count as its driver likes."""
    if not getattr(command.statement, "is_update", False) or not isinstance(command.parameters, list):
        return None
    return len(command.parameters)


def _row(session: BillingSession, names: Sequence[str]) -> dict[str, object]:
    row = {name: getattr(session, name) for name in names}
    for name in ("state", "intent"):
        if row.get(name) is not None:
            row[name] = row[name].value
    return row


def _session_writes(book: Book) -> list[Command]:
    commands = []
    changed = sorted(book.states_before)
    opened = [_row(book.sessions[each], SESSION_COLUMNS) for each in changed if book.states_before[each] is None]
    if opened:
        commands.append(Command(billing_sessions.insert(), opened))
    moved = [
        {**{f"to_{name}": value for name, value in _row(book.sessions[each], MUTABLE).items()}, "of": each, "was": was}
        for each in changed
        if (was := book.states_before[each]) is not None
    ]
    if moved:
        c = billing_sessions.c
        statement = (
            update(billing_sessions)
            .where(c.request_id == bindparam("of"), c.state == bindparam("was"))
            .values({name: bindparam(f"to_{name}") for name in MUTABLE})
        )
        commands.append(Command(statement, moved))
    return commands


def _account_writes(book: Book) -> list[Command]:
    by_type: dict[AccountType, dict[int, int]] = {each: {} for each in AccountType}
    for (account_type, account_id), delta in book.deltas.items():
        by_type[account_type][account_id] = delta
    commands = []
    wallet_deltas = by_type[AccountType.WALLET]
    touched = sorted({of for of, delta in wallet_deltas.items() if delta} | set(book.usage))
    if touched:
        statement = (
            update(users)
            .where(users.c.id == bindparam("of"))
            .values(
                quota=users.c.quota + bindparam("delta"),
                used_quota=users.c.used_quota + bindparam("used"),
                request_count=users.c.request_count + bindparam("requests"),
            )
        )
        rows = []
        for of in touched:
            used, requests = book.usage.get(of, (0, 0))
            rows.append({"of": of, "delta": wallet_deltas.get(of, 0), "used": used, "requests": requests})
        commands.append(Command(statement, rows))
    commands.extend(_subscription_writes(book, by_type[AccountType.SUBSCRIPTION]))
    key_rows = [{"of": of, "delta": delta} for of, delta in sorted(by_type[AccountType.TOKEN].items()) if delta]
    if key_rows:
        statement = (
            update(tokens)
            .where(tokens.c.id == bindparam("of"))
            .values(
                remain_quota=tokens.c.remain_quota + bindparam("delta"),
                used_quota=tokens.c.used_quota - bindparam("delta"),
            )
        )
        commands.append(Command(statement, key_rows))
    return commands


def _subscription_writes(book: Book, deltas: Mapping[int, int]) -> list[Command]:
    touched = sorted({of for of, delta in deltas.items() if delta} | set(book.turns))
    if not touched:
        return []
    c = user_subscriptions.c
    statement = (
        update(user_subscriptions)
        .where(c.id == bindparam("of"))
        .values(
            amount_used=c.amount_used - bindparam("delta"),
            last_reset_time=bindparam("last"),
            next_reset_time=bindparam("next"),
            status=bindparam("to_status"),
        )
    )
    rows = []
    for of in touched:
        now = book.subscriptions[of]
        rows.append(
            {
                "of": of,
                "delta": deltas.get(of, 0),
                "last": now.last_reset_time,
                "next": now.next_reset_time,
                "to_status": now.status,
            }
        )
    return [Command(statement, rows)]
