"""PostgreSQL 13 and later, through psycopg 3."""

from functools import lru_cache

from sqlalchemy import BindParameter, ColumnElement, Insert, TableValuedAlias, Update, bindparam, column, func
from sqlalchemy import select as sql_select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.dialects.postgresql import dialect as pg_dialect
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.sql import visitors
from sqlalchemy.sql.visitors import ExternallyTraversible

from relay_billing.schema import billing_sessions
from relay_billing.store.commands import Command, Rows
from relay_billing.store.dialects import Dialect

SERIALIZATION, DEADLOCK = "40001", "40P01"


def _unnested(columns: dict[str, ColumnElement[object]]) -> TableValuedAlias:
    """The rows as a table: one array a column, whatever the number of rows."""
    arrays = [bindparam(name, type_=ARRAY(of.type)) for name, of in columns.items()]
    named = [column(name, of.type) for name, of in columns.items()]
    return func.unnest(*arrays).table_valued(*named, name="given").render_derived()


@lru_cache(maxsize=64)
def _set_based(statement: Insert | Update, names: tuple[str, ...]) -> Insert | Update:
    """The same statement for a set of rows: its parameters become columns of that set."""
    if isinstance(statement, Insert):
        table = statement.table
        given = _unnested({name: table.c[name] for name in names})
        return statement.from_select(list(names), sql_select(*(given.c[name] for name in names)))
    found: dict[str, ColumnElement[object]] = {}

    def collect(each: BindParameter[object]) -> None:
        if each.key in names:
            found[each.key] = each

    visitors.traverse(statement, {}, {"bindparam": collect})
    given = _unnested({name: found[name] for name in names})

    def replace(element: ExternallyTraversible, **_: object) -> ExternallyTraversible | None:
        return given.c[element.key] if isinstance(element, BindParameter) and element.key in names else None

    replaced = visitors.replacement_traverse(statement, {}, replace)
    assert isinstance(replaced, Update)
    return replaced


def set_based(statement: Insert | Update, rows: Rows) -> Command:
    """One statement for all rows: 20 to 30 times as fast as one a row."""
    names = tuple(rows[0])
    arrays = {name: [row[name] for row in rows] for name in names}
    return Command(_set_based(statement, names), arrays, len(rows) if isinstance(statement, Update) else None)


def _transient(error: DBAPIError) -> bool:
    # psycopg raises OperationalError for deadlocks, serialization failures, shutdowns and lost connections alike.
    state = getattr(error.orig, "sqlstate", None)
    lost = isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return lost or state in (SERIALIZATION, DEADLOCK)


def _hold_at_once() -> str:
    """All guards, then all writes, in one round trip. Text: Core has no data-changing WITH that locks first.

    Locks in the lock order: users, subscriptions (read alone), tokens. A guard that fails leaves nothing changed, and
    the general path decides. A request id that is known fails the insert, and all of it with it.
    """
    ours = [each for each in billing_sessions.c if each.name != "user_quota"]
    here = pg_dialect()  # type: ignore[no-untyped-call]
    kinds = {each.name: each.type.compile(dialect=here) for each in ours}
    names = ", ".join(kinds)
    values = ", ".join(f"CAST(%({name})s AS {kind})" for name, kind in kinds.items())
    return f"""
        WITH u AS MATERIALIZED (
            SELECT quota FROM users WHERE id = %(user_id)s AND quota >= %(hold)s FOR NO KEY UPDATE
        ), t AS MATERIALIZED (
            SELECT tokens.id FROM tokens, u
            WHERE tokens.id = %(token_id)s AND tokens.user_id = %(user_id)s
                AND (unlimited_quota OR remain_quota >= %(hold)s)
                AND NOT (%(trust_quota)s > 0 AND u.quota > %(trust_quota)s
                    AND (unlimited_quota OR remain_quota > %(trust_quota)s))
                AND NOT (%(no_subscription)s AND EXISTS (
                    SELECT FROM user_subscriptions
                    WHERE user_id = %(user_id)s AND status = 'active' AND end_time > %(now)s))
            FOR NO KEY UPDATE OF tokens
        ), wallet AS (
            UPDATE users SET quota = users.quota - %(hold)s FROM t
            WHERE users.id = %(user_id)s RETURNING users.quota AS left_
        ), token AS (
            UPDATE tokens SET remain_quota = remain_quota - %(hold)s, used_quota = used_quota + %(hold)s FROM wallet
            WHERE tokens.id = %(token_id)s RETURNING remain_quota AS left_
        ), opened AS (
            INSERT INTO billing_sessions ({names}, user_quota)
            SELECT {values}, wallet.left_ + %(hold)s FROM wallet, token
        ), entered AS (
            INSERT INTO billing_ledger
                (request_id, account_type, account_id, kind, step, amount, balance_after, created_at)
            SELECT CAST(%(request_id)s AS VARCHAR), leg.kind, leg.of, 'pre_consume', 0, - %(hold)s, leg.left_,
                CAST(%(created_at)s AS BIGINT)
            FROM wallet, token, LATERAL (VALUES
                ('wallet', CAST(%(user_id)s AS BIGINT), wallet.left_),
                ('token', CAST(%(token_id)s AS BIGINT), token.left_)) AS leg (kind, of, left_)
        )
        SELECT wallet.left_ + %(hold)s FROM wallet, token
    """


POSTGRESQL = Dialect("postgresql", insert, (), None, set_based, _hold_at_once(), _transient)
