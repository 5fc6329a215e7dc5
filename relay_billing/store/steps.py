"""Load and write as generators of commands. The lock order stands here, once: sessions, users, subscriptions, tokens.

A generator yields lists of commands and is sent a list of answers; `drivers` runs it on a connection, sync or async.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace

from sqlalchemy import BindParameter, ColumnElement, RowMapping, Select, bindparam, func, or_, select, update

from relay_billing.domain.accounts import AccountType, Plan, Subscription, Token, Wallet
from relay_billing.domain.changes import Book
from relay_billing.domain.errors import UpdateDataError
from relay_billing.domain.events import events_of
from relay_billing.domain.holds import Assumed
from relay_billing.domain.sessions import BillingSession, Intent, State
from relay_billing.schema import (
    billing_ledger,
    billing_sessions,
    subscription_plans,
    tokens,
    user_subscriptions,
    users,
)
from relay_billing.store.among import among
from relay_billing.store.commands import Command, Load, Reply, Rows
from relay_billing.store.dialects import Dialect
from relay_billing.store.letters import dead_letters, letter_of
from relay_billing.store.notices import letters_noted, noted

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


def _given(name: str, like: ColumnElement[object]) -> BindParameter[object]:
    """A parameter of the type of a column."""
    return bindparam(name, type_=like.type)


# Constant, so that each is compiled once. Deltas, never balances.
OPEN_SESSION = billing_sessions.insert()
ADD_ENTRY = billing_ledger.insert()
_S, _U, _T, _B = billing_sessions.c, users.c, tokens.c, user_subscriptions.c
MOVE_SESSION = (
    update(billing_sessions)
    .where(_S.request_id == _given("of", _S.request_id), _S.state == _given("was", _S.state))
    .values({name: _given(f"to_{name}", _S[name]) for name in MUTABLE})
)
WRITE_INTENT = (
    update(billing_sessions)
    .where(
        _S.request_id == _given("of", _S.request_id),
        _S.intent.is_(None),
        # Not IN: a list inside can't be sent with many sets of parameters.
        or_(*(_S.state == state.value for state in (State.PRECONSUMED, State.EXPIRED, State.FUNDING_SETTLED))),
    )
    # A parked session is judged afresh by what comes now, the sweep included.
    .values(
        intent=_given("to", _S.intent),
        intent_quota=_given("quota_", _S.intent_quota),
        intent_reason=_given("reason_", _S.intent_reason),
        intent_at=_given("at", _S.intent_at),
        parked=False,
    )
)
MOVE_WALLET = (
    update(users)
    .where(_U.id == _given("of", _U.id))
    .values(
        quota=_U.quota + _given("delta", _U.quota),
        used_quota=_U.used_quota + _given("used", _U.quota),
        request_count=_U.request_count + _given("requests", _U.quota),
    )
)
MOVE_SUBSCRIPTION = (
    update(user_subscriptions)
    .where(_B.id == _given("of", _B.id))
    .values(
        amount_used=_B.amount_used - _given("delta", _B.amount_used),
        last_reset_time=_given("last", _B.last_reset_time),
        next_reset_time=_given("next", _B.next_reset_time),
        status=_given("to_status", _B.status),
    )
)
MOVE_TOKEN = (
    update(tokens)
    .where(_T.id == _given("of", _T.id))
    .values(
        remain_quota=_T.remain_quota + _given("delta", _T.remain_quota),
        used_quota=_T.used_quota - _given("delta", _T.remain_quota),
    )
)


def _locked(statement: Select[tuple[object, ...]]) -> Command:
    # NO KEY UPDATE: nothing here changes a primary key, so rows that only refer to these need not wait.
    return Command(statement.with_for_update(key_share=True))


def _session_rows(request_ids: Collection[str]) -> Select[tuple[object, ...]]:
    c = billing_sessions.c
    return select(billing_sessions).where(among(c.request_id, request_ids)).order_by(c.request_id)


def _users(ids: Collection[int]) -> Command:
    statement = select(users.c.id, users.c.quota).where(among(users.c.id, ids)).order_by(users.c.id)
    return _locked(statement)


def _subscriptions(clause: Select[tuple[object, ...]]) -> Command:
    return _locked(clause.order_by(user_subscriptions.c.id))


def _tokens(ids: Collection[int]) -> Command:
    c = tokens.c
    statement = select(c.id, c.user_id, c.remain_quota, c.unlimited_quota).where(among(c.id, ids)).order_by(c.id)
    return _locked(statement)


def load_accounts(book: Book, user_ids: Collection[int], token_ids: Collection[int]) -> Load:
    """Lock all that a pre-consume of these users may take from: wallets, subscriptions with their plans, tokens."""
    c = user_subscriptions.c
    usable = select(user_subscriptions).where(among(c.user_id, user_ids), c.status == "active")
    plan_ids = select(c.plan_id).where(among(c.user_id, user_ids), c.status == "active")
    commands = [
        _users(user_ids),
        _subscriptions(usable.where(c.end_time > book.now)),
        _tokens(token_ids),
        Command(_plan_rows().where(subscription_plans.c.id.in_(plan_ids))),
    ]
    if book.policy.trust_max_inflight:
        s = billing_sessions.c
        trusted = select(s.user_id, func.count().label("open"))
        where = (among(s.user_id, user_ids), s.state == State.PRECONSUMED.value, s.trusted)
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
        _subscriptions(select(user_subscriptions).where(among(user_subscriptions.c.id, own))),
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


def write_intents(dialect: Dialect, intents: Rows) -> list[Command]:
    """Record what relays want of open sessions; the first intent of each wins (semantics §9)."""
    c = billing_sessions.c
    rows = select(c.request_id).where(among(c.request_id, [str(each["of"]) for each in intents])).order_by(c.request_id)
    written = dialect.many(WRITE_INTENT, intents)
    # Locked in order first: a set of rows is updated in any order.
    return [_locked(rows), replace(written, touches=None)]


def write(book: Book, dialect: Dialect) -> Load:
    """Carry out everything the book has gathered: one statement a table, deltas and never balances."""
    commands = [*_session_writes(book, dialect), *_account_writes(book, dialect)]
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
        commands.append(dialect.many(ADD_ENTRY, rows))
    if events := events_of(book):
        commands.append(noted(dialect, events))
    if book.dead_letters:
        letters = [letter_of(answer) for answer in book.dead_letters]
        if book.policy.webhook_url:
            commands.append(letters_noted(letters, book.now_ms))
        commands.append(dead_letters(dialect, letters, book.now_ms))
    if not commands:
        return
    replies = yield commands
    for command, reply in zip(commands, replies, strict=True):
        if command.touches is not None and reply.count != command.touches:
            raise UpdateDataError(f"a row moved under its lock: {command.touches} were to change, {reply.count} did")


def _row(session: BillingSession, names: Sequence[str]) -> dict[str, object]:
    row = {name: getattr(session, name) for name in names}
    for name in ("state", "intent"):
        if row.get(name) is not None:
            row[name] = row[name].value
    return row


def at_once(assumed: Assumed, now: int) -> dict[str, object]:
    """The parameters of a dialect's `hold_at_once`."""
    guards = {"hold": assumed.hold, "trust_quota": assumed.trust_quota, "no_subscription": assumed.no_subscription}
    return {**_row(assumed.session, SESSION_COLUMNS), **guards, "now": now}


def _session_writes(book: Book, dialect: Dialect) -> list[Command]:
    commands = []
    changed = sorted(book.states_before)
    opened = [_row(book.sessions[each], SESSION_COLUMNS) for each in changed if book.states_before[each] is None]
    if opened:
        commands.append(dialect.many(OPEN_SESSION, opened))
    moved = [
        {**{f"to_{name}": value for name, value in _row(book.sessions[each], MUTABLE).items()}, "of": each, "was": was}
        for each in changed
        if (was := book.states_before[each]) is not None
    ]
    if moved:
        commands.append(dialect.many(MOVE_SESSION, moved))
    return commands


def _account_writes(book: Book, dialect: Dialect) -> list[Command]:
    by_type: dict[AccountType, dict[int, int]] = {each: {} for each in AccountType}
    for (account_type, account_id), delta in book.deltas.items():
        by_type[account_type][account_id] = delta
    commands = []
    wallet_deltas = by_type[AccountType.WALLET]
    touched = sorted({of for of, delta in wallet_deltas.items() if delta} | set(book.usage))
    if touched:
        rows = []
        for of in touched:
            used, requests = book.usage.get(of, (0, 0))
            rows.append({"of": of, "delta": wallet_deltas.get(of, 0), "used": used, "requests": requests})
        commands.append(dialect.many(MOVE_WALLET, rows))
    subscription_rows = _subscription_rows(book, by_type[AccountType.SUBSCRIPTION])
    if subscription_rows:
        commands.append(dialect.many(MOVE_SUBSCRIPTION, subscription_rows))
    token_rows = [{"of": of, "delta": delta} for of, delta in sorted(by_type[AccountType.TOKEN].items()) if delta]
    if token_rows:
        commands.append(dialect.many(MOVE_TOKEN, token_rows))
    return commands


def _subscription_rows(book: Book, deltas: Mapping[int, int]) -> list[dict[str, object]]:
    touched = sorted({of for of, delta in deltas.items() if delta} | set(book.turns))
    rows: list[dict[str, object]] = []
    for of in touched:
        now = book.subscriptions[of]
        row = {"of": of, "delta": deltas.get(of, 0), "last": now.last_reset_time, "next": now.next_reset_time}
        rows.append({**row, "to_status": now.status})
    return rows
