"""What the books say of one request, one user or one token: read by index, in bounded lists, changing nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Engine, Select, and_, cast, func, select

from relay_billing import deadletters
from relay_billing.deadletters import DeadLetter, Filter
from relay_billing.domain import inputs
from relay_billing.domain.accounts import AccountType
from relay_billing.domain.sessions import BillingSession, State
from relay_billing.schema import (
    billing_dead_letters,
    billing_ledger,
    billing_sessions,
    in_state,
    subscription_plans,
    tokens,
    user_subscriptions,
    users,
)
from relay_billing.store import steps
from relay_billing.store.commands import Command, Steps
from relay_billing.store.drivers import dialect_of, transact

T = TypeVar("T")

MAX_LISTED = 10_000
"""Rows of one list, at most."""
MAX_ROWS = 500
"""Ledger rows of one request, tokens and subscriptions of one user, at most: more are cut off."""
RECENT = 20
"""Movements and open holds that an account is shown with, unless it is asked for more or fewer."""
SHOWN_OF_KEY = 4
"""Characters of an API key that leave the database, of a key that has at least four times as many."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of `billing_ledger`. Amounts are quota, `created_at` Unix milliseconds."""

    id: int
    request_id: str
    account_type: str
    account_id: int
    kind: str
    step: int
    amount: int
    balance_after: int
    """Of a subscription: `-amount_used`."""
    created_at: int
    note: str | None


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of one request id."""

    request_id: str
    session: BillingSession | None
    """None: it was never pre-consumed, was refused, or is older than the retention."""
    entries: tuple[Entry, ...]
    letters: tuple[DeadLetter, ...]
    """Those that were dealt with, too."""

    @property
    def known(self) -> bool:
        """Whether there is anything to tell."""
        return self.session is not None or bool(self.entries) or bool(self.letters)


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions; a field that is unset filters nothing. Amounts are quota, times Unix milliseconds."""

    user_id: int | None = None
    token_id: int | None = None
    state: State | None = None
    before_ms: int | None = None
    """Opened before then."""
    after_ms: int | None = None
    """Opened then or later."""
    at_least: int | None = None
    """What it was charged, or what it holds, is as much."""
    limit: int = 100
    """1 to 10,000; the newest ones."""


@dataclass(frozen=True, slots=True)
class Key:
    """One row of `tokens`; of the API key itself only its beginning."""

    id: int
    user_id: int
    name: str
    status: int
    remain_quota: int
    used_quota: int
    unlimited_quota: bool
    key: str


@dataclass(frozen=True, slots=True)
class Allowance:
    """One row of `user_subscriptions` with its plan's title. Amounts are quota, times Unix seconds."""

    id: int
    plan_id: int
    plan_title: str | None
    """None: the plan has no row."""
    status: str
    amount_total: int
    """0: unlimited."""
    amount_used: int
    start_time: int
    end_time: int
    last_reset_time: int
    next_reset_time: int


@dataclass(frozen=True, slots=True)
class Account:
    """One user as the books have them. Amounts are quota."""

    id: int
    username: str
    quota: int
    used_quota: int
    request_count: int
    tokens: tuple[Key, ...]
    subscriptions: tuple[Allowance, ...]
    holds: int
    """Open sessions."""
    held: int
    """What they hold together."""
    open_sessions: tuple[BillingSession, ...]
    movements: tuple[Entry, ...]
    """The last ones of the wallet, the newest first."""


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """One token as the books have it. Amounts are quota."""

    token: Key
    holds: int
    held: int
    open_sessions: tuple[BillingSession, ...]
    movements: tuple[Entry, ...]


class History:
    """Reads the books that `engine` reaches. Every method raises BillingUnavailable when the database is away."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = dialect_of(engine)

    def _read(self, make: Callable[[], Steps[T]]) -> T:
        return transact(self._engine, self._dialect, make)

    def story(self, request_id: str) -> Story:
        """Everything about one request. Raises InvalidRequest for an id that can't be one."""
        inputs.request_id(request_id)
        return self._read(lambda: _story(request_id))

    def sessions(self, chosen: SessionFilter) -> list[BillingSession]:
        """The sessions that a filter names, newest first. Raises InvalidRequest for a limit out of range."""
        inputs.whole("limit", chosen.limit, 1, MAX_LISTED)
        return self._read(lambda: _sessions(chosen))

    def account(self, user_id: int, recent: int = RECENT) -> Account | None:
        """One user; None: there is none. `recent`: how many open holds and movements are listed."""
        inputs.row_id("user_id", user_id)
        inputs.whole("recent", recent, 1, MAX_ROWS)
        return self._read(lambda: _account(user_id, recent))

    def token(self, token_id: int, recent: int = RECENT) -> TokenAccount | None:
        """One token; None: there is none. `recent`: how many open holds and movements are listed."""
        inputs.row_id("token_id", token_id)
        inputs.whole("recent", recent, 1, MAX_ROWS)
        return self._read(lambda: _token(token_id, recent))


_LEDGER = select(*(billing_ledger.c[name] for name in Entry.__dataclass_fields__))


_OPEN = in_state(State.PRECONSUMED.value)


def _story(request_id: str) -> Steps[Story]:
    s, c, d = billing_sessions.c, billing_ledger.c, billing_dead_letters.c
    session, letters = yield [
        Command(select(billing_sessions).where(s.request_id == request_id)),
        Command(select(d.id).where(d.request_id == request_id).order_by(d.id).limit(MAX_ROWS)),
    ]
    ids = tuple(row["id"] for row in letters.rows)
    # What a write-off and a forfeited give-back enter carries names made of theirs.
    names = [request_id, f"forfeit:{request_id}", *(f"writeoff:{each}" for each in ids)]
    (found,) = yield [Command(_LEDGER.where(c.request_id.in_(names)).order_by(c.id).limit(MAX_ROWS))]
    kept: list[DeadLetter] = []
    if ids:
        kept = yield from deadletters.find(Filter(ids=ids, resolved=None, limit=MAX_ROWS))
    return Story(
        request_id,
        steps.session_of(session.rows[0]) if session.rows else None,
        tuple(Entry(**row) for row in found.rows),
        tuple(kept),
    )


def _sessions(chosen: SessionFilter) -> Steps[list[BillingSession]]:
    s = billing_sessions.c
    rows = select(billing_sessions)
    if chosen.user_id is not None:
        rows = rows.where(s.user_id == chosen.user_id)
    if chosen.token_id is not None:
        rows = rows.where(s.token_id == chosen.token_id)
    if chosen.state is not None:
        rows = rows.where(in_state(chosen.state.value))
    if chosen.before_ms is not None:
        rows = rows.where(s.created_at < chosen.before_ms)
    if chosen.after_ms is not None:
        rows = rows.where(s.created_at >= chosen.after_ms)
    if chosen.at_least is not None:
        rows = rows.where(func.coalesce(s.actual_quota, s.pre_consumed_quota) >= chosen.at_least)
    newest = rows.order_by(s.created_at.desc(), s.request_id).limit(chosen.limit)
    (found,) = yield [Command(newest)]
    return [steps.session_of(row) for row in found.rows]


def _keys(where: ColumnElement[bool]) -> Select[Any]:
    """Rows of `tokens`. The key is cut in the database: the rest of it never gets here."""
    c = tokens.c
    long_enough = func.length(c.key) >= 4 * SHOWN_OF_KEY
    rows = select(
        c.id,
        c.user_id,
        c.name,
        c.status,
        c.remain_quota,
        c.used_quota,
        c.unlimited_quota,
        func.substr(c.key, 1, SHOWN_OF_KEY).label("beginning"),
        long_enough.label("long_enough"),
    )
    return rows.where(where).order_by(c.id).limit(MAX_ROWS)


def _key(row: Any) -> Key:  # noqa: ANN401
    values = {name: row[name] for name in Key.__dataclass_fields__ if name != "key"}
    values["unlimited_quota"] = bool(row["unlimited_quota"])
    return Key(**values, key=f"{row['beginning']}***" if row["long_enough"] else "***")


def _open_of(where: ColumnElement[bool], recent: int) -> list[Command]:
    """How many holds are open, what they hold, and the newest of them: from the index of open sessions alone."""
    s = billing_sessions.c
    held = cast(func.coalesce(func.sum(s.pre_consumed_quota), 0), BigInteger)
    total = select(func.count().label("holds"), held.label("held")).where(_OPEN, where)
    newest = select(billing_sessions).where(_OPEN, where).order_by(s.created_at.desc()).limit(recent)
    return [Command(total), Command(newest)]


def _movements(account_type: AccountType, account_id: int, recent: int) -> Command:
    c = billing_ledger.c
    mine = and_(c.account_type == account_type.value, c.account_id == account_id)
    return Command(_LEDGER.where(mine).order_by(c.id.desc()).limit(recent))


def _account(user_id: int, recent: int) -> Steps[Account | None]:
    u, b, p = users.c, user_subscriptions.c, subscription_plans.c
    names = [name for name in Allowance.__dataclass_fields__ if name != "plan_title"]
    bought = select(*(b[name] for name in names), p.title.label("plan_title")).select_from(
        user_subscriptions.outerjoin(subscription_plans, p.id == b.plan_id)
    )
    user, keys, allowances, total, newest, moved = yield [
        Command(select(u.id, u.username, u.quota, u.used_quota, u.request_count).where(u.id == user_id)),
        Command(_keys(tokens.c.user_id == user_id)),
        Command(bought.where(b.user_id == user_id).order_by(b.id).limit(MAX_ROWS)),
        *_open_of(billing_sessions.c.user_id == user_id, recent),
        _movements(AccountType.WALLET, user_id, recent),
    ]
    if not user.rows:
        return None
    return Account(
        **user.rows[0],
        tokens=tuple(_key(row) for row in keys.rows),
        subscriptions=tuple(Allowance(**row) for row in allowances.rows),
        holds=total.rows[0]["holds"],
        held=total.rows[0]["held"],
        open_sessions=tuple(steps.session_of(row) for row in newest.rows),
        movements=tuple(Entry(**row) for row in moved.rows),
    )


def _token(token_id: int, recent: int) -> Steps[TokenAccount | None]:
    found, total, newest, moved = yield [
        Command(_keys(tokens.c.id == token_id)),
        *_open_of(billing_sessions.c.token_id == token_id, recent),
        _movements(AccountType.TOKEN, token_id, recent),
    ]
    if not found.rows:
        return None
    return TokenAccount(
        _key(found.rows[0]),
        total.rows[0]["holds"],
        total.rows[0]["held"],
        tuple(steps.session_of(row) for row in newest.rows),
        tuple(Entry(**row) for row in moved.rows),
    )
