"""Load and write as generators of commands. The lock order stands here, once: sessions, users, subscriptions, tokens.

A generator yields lists of commands and is sent a list of answers; `drivers` runs it on a connection, sync or async.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from sqlalchemy import or_, select

from relay_billing.domain.accounts import AccountType, Plan, Subscription, Token, Wallet
from relay_billing.domain.changes import Book
from relay_billing.domain.errors import UpdateDataError
from relay_billing.domain.events import events_of
from relay_billing.domain.sessions import BillingSession, Intent, State
from relay_billing.schema import billing_sessions, in_state, in_states, subscription_plans, user_subscriptions
from relay_billing.store import statements
from relay_billing.store.commands import Command, Load, Reply, Rows, constant
from relay_billing.store.dialects import Dialect
from relay_billing.store.letters import dead_letters, letter_of
from relay_billing.store.notices import letters_noted, noted
from relay_billing.store.statements import MUTABLE, OPENING_COLUMNS, SESSION_COLUMNS

NOTHING = Reply((), 0)


def load_accounts(book: Book, user_ids: Collection[int], token_ids: Collection[int]) -> list[Command]:
    """Lock all that a pre-consume of these users may take from: wallets, subscriptions with their plans, tokens."""
    ids = sorted(user_ids)
    commands = [
        constant(statements.LOCK_USERS, ids=ids),
        constant(statements.LOCK_ACTIVE_SUBSCRIPTIONS, ids=ids, now=book.now),
        constant(statements.LOCK_TOKENS, ids=sorted(token_ids)),
        constant(statements.PLANS_OF_ACTIVE, ids=ids, now=book.now),
    ]
    if book.policy.trust_max_inflight:
        commands.append(constant(statements.TRUSTED_OPEN, ids=ids))
    return commands


def load_for_holds(
    book: Book, request_ids: Collection[str], user_ids: Collection[int], token_ids: Collection[int]
) -> Load:
    """Read the sessions that may be replayed, and lock the accounts, all in one list."""
    read = constant(statements.READ_SESSIONS, ids=sorted(request_ids))
    found, wallets, subscriptions, keys, plans, *counts = yield [read, *load_accounts(book, user_ids, token_ids)]
    _fill_sessions(book, found)
    fill_accounts(book, wallets, subscriptions, keys)
    book.plans.update({row["id"]: Plan(**row) for row in plans.rows})
    for reply in counts:
        book.trusted_open.update({row["user_id"]: row["open"] for row in reply.rows})


def load_wallets(book: Book, user_ids: Collection[int]) -> Load:
    """Lock wallets alone."""
    (wallets,) = yield [constant(statements.LOCK_USERS, ids=sorted(user_ids))]
    fill_accounts(book, wallets, NOTHING, NOTHING)


def fill_accounts(book: Book, wallets: Reply, subscriptions: Reply, keys: Reply) -> None:
    """Put rows of the three account tables into the book."""
    book.wallets.update({row["id"]: Wallet(**row) for row in wallets.rows})
    names = tuple(field.name for field in fields(Subscription))
    for row in subscriptions.rows:
        book.subscriptions[row["id"]] = Subscription(**{name: row[name] for name in names})
    for row in keys.rows:
        values = {**row, "unlimited_quota": bool(row["unlimited_quota"])}
        book.tokens[row["id"]] = Token(**values)


def session_of(row: Mapping[str, Any]) -> BillingSession:
    """Make the domain's value of a row of `billing_sessions`."""
    values = {name: row[name] for name in SESSION_COLUMNS}
    values["state"] = State(row["state"])
    values["intent"] = None if row["intent"] is None else Intent(row["intent"])
    return BillingSession(**values)


def _fill_sessions(book: Book, found: Reply) -> None:
    book.sessions.update({row["request_id"]: session_of(row) for row in found.rows})


def load_sessions(book: Book, request_ids: Collection[str]) -> Load:
    """Read sessions into the book, as a replay does; a transition locks them with `load_for_jobs`."""
    (found,) = yield [constant(statements.READ_SESSIONS, ids=sorted(request_ids))]
    _fill_sessions(book, found)


def load_for_jobs(book: Book, request_ids: Collection[str]) -> Load:
    """Lock sessions, then the accounts that they were paid from: a session never changes whose it is."""
    ids = sorted(request_ids)
    locks = (
        statements.LOCK_SESSIONS,
        statements.LOCK_USERS_OF,
        statements.LOCK_SUBSCRIPTIONS_OF,
        statements.LOCK_TOKENS_OF,
    )
    found, *accounts = yield [constant(each, ids=ids) for each in locks]
    _fill_sessions(book, found)
    fill_accounts(book, *accounts)


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
        Command(statements.locked(rows.order_by(c.id).limit(limit))),
        Command(statements.PLANS.where(p.quota_reset_period != "never")),
    ]
    fill_accounts(book, NOTHING, subscriptions, NOTHING)
    book.plans.update({row["id"]: Plan(**row) for row in plans.rows})


def expired_ids(now_ms: int, limit: int) -> Command:
    """Request ids of holds that nobody closed in time, oldest first; other sweepers' are skipped (semantics §8)."""
    c = billing_sessions.c
    where = (in_state(State.PRECONSUMED.value), c.expires_at < now_ms, c.intent.is_(None), c.parked.is_(False))
    rows = select(c.request_id).where(*where).order_by(c.expires_at).limit(limit)
    return Command(rows.with_for_update(key_share=True, skip_locked=True))


def waiting_ids(before_ms: int, limit: int) -> Command:
    """Request ids whose intent has waited since before `before_ms`; other sweepers' are skipped (semantics §9)."""
    c = billing_sessions.c
    states = in_states(State.PRECONSUMED.value, State.FUNDING_SETTLED.value, State.EXPIRED.value)
    where = (c.intent.is_not(None), states, c.intent_at < before_ms, c.parked.is_(False))
    rows = select(c.request_id).where(*where).order_by(c.intent_at).limit(limit)
    return Command(rows.with_for_update(key_share=True, skip_locked=True))


def write_intents(dialect: Dialect, intents: Rows) -> list[Command]:
    """Record what relays want of open sessions; the first intent of each wins (semantics §9)."""
    written = dialect.many(statements.WRITE_INTENT, intents)
    # Locked in order first: a set of rows is updated in any order.
    ids = sorted(str(each["of"]) for each in intents)
    return [constant(statements.LOCK_SESSION_KEYS, ids=ids), replace(written, touches=None)]


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
        commands.append(dialect.many(statements.ADD_ENTRY, rows))
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


def _reader(names: Sequence[str]) -> Callable[[BillingSession], dict[str, object]]:
    """Makes a row of a session, faster than a loop over its fields."""
    read = attrgetter(*names)

    def row_of(session: BillingSession) -> dict[str, object]:
        row = dict(zip(names, read(session), strict=True))
        row["state"] = session.state.value
        if session.intent is not None:
            row["intent"] = session.intent.value
        return row

    return row_of


_opening_row, _moved_row = _reader(OPENING_COLUMNS), _reader(MUTABLE)


def _session_writes(book: Book, dialect: Dialect) -> list[Command]:
    commands = []
    changed = sorted(book.states_before)
    opened = [_opening_row(book.sessions[each]) for each in changed if book.states_before[each] is None]
    if opened:
        commands.append(dialect.many(statements.OPEN_SESSION, opened))
    moved = [
        {
            **{f"to_{name}": value for name, value in _moved_row(book.sessions[each]).items()},
            "of": each,
            "was": was.value,
        }
        for each in changed
        if (was := book.states_before[each]) is not None
    ]
    if moved:
        commands.append(dialect.many(statements.MOVE_SESSION, moved))
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
        commands.append(dialect.many(statements.MOVE_WALLET, rows))
    subscription_rows = _subscription_rows(book, by_type[AccountType.SUBSCRIPTION])
    if subscription_rows:
        commands.append(dialect.many(statements.MOVE_SUBSCRIPTION, subscription_rows))
    token_rows = [{"of": of, "delta": delta} for of, delta in sorted(by_type[AccountType.TOKEN].items()) if delta]
    if token_rows:
        commands.append(dialect.many(statements.MOVE_TOKEN, token_rows))
    return commands


def _subscription_rows(book: Book, deltas: Mapping[int, int]) -> list[dict[str, object]]:
    touched = sorted({of for of, delta in deltas.items() if delta} | set(book.turns))
    rows: list[dict[str, object]] = []
    for of in touched:
        now = book.subscriptions[of]
        row = {"of": of, "delta": deltas.get(of, 0), "last": now.last_reset_time, "next": now.next_reset_time}
        rows.append({**row, "to_status": now.status})
    return rows
