"""Proves the accounts of a run by SQL of its own: what the product takes for true is not believed here.

In words that PostgreSQL and MariaDB both know.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, Engine, text

# Everybody began with the same wealth, so every balance is known from the sessions alone.
ACCOUNTS = """
    WITH s AS (
        SELECT {owner} AS id, sum(CASE state WHEN 'settled' THEN 1 ELSE 0 END) AS settles,
               sum(CASE state WHEN 'settled' THEN actual_quota ELSE 0 END) AS used,
               sum(CASE WHEN state IN ('preconsumed', 'funding_settled') THEN {held} ELSE 0 END) AS held
        FROM billing_sessions GROUP BY {owner}
    ), l AS (
        SELECT account_id AS id, sum(amount) AS moved FROM billing_ledger WHERE account_type = '{account}'
        GROUP BY account_id
    )
    SELECT a.id, a.{balance} AS balance, a.used_quota AS counted_quota, {requests} AS counted_requests,
           coalesce(s.settles, 0) AS settles, coalesce(s.used, 0) AS used, coalesce(s.held, 0) AS held,
           coalesce(l.moved, 0) AS moved
    FROM {table} a LEFT JOIN s ON s.id = a.id LEFT JOIN l ON l.id = a.id
"""
WALLETS = ACCOUNTS.format(
    owner="user_id",
    held="pre_consumed_quota",
    account="wallet",
    table="users",
    balance="quota",
    requests="a.request_count",
)
TOKENS = ACCOUNTS.format(
    owner="token_id",
    held="token_consumed",
    account="token",
    table="tokens",
    balance="remain_quota",
    # Of a token nobody counts them.
    requests="coalesce(s.settles, 0)",
)
# A session moves what its end says, on the wallet and on the token alike.
SESSIONS = """
    SELECT l.request_id, l.account_type, sum(l.amount) AS moved, max(s.state) AS state,
           CASE max(s.state) WHEN 'settled' THEN -max(s.actual_quota) WHEN 'refunded' THEN 0 WHEN 'expired' THEN 0
                WHEN 'preconsumed' THEN -max(s.pre_consumed_quota) END AS expected
    FROM billing_ledger l LEFT JOIN billing_sessions s ON s.request_id = l.request_id
    GROUP BY l.request_id, l.account_type
"""
UNMOVED = """
    SELECT s.request_id, s.actual_quota, t.account_type
    FROM billing_sessions s CROSS JOIN (SELECT 'wallet' AS account_type UNION ALL SELECT 'token') t
    WHERE s.state = 'settled' AND s.actual_quota <> 0 AND NOT EXISTS (
        SELECT 1 FROM billing_ledger l WHERE l.request_id = s.request_id AND l.account_type = t.account_type)
"""


def drifts(engine: Engine, wealth: int) -> list[str]:
    """A line for each account and each session that has moved what it must not, or not what it must."""
    with engine.connect() as connection:
        return [
            *_accounts(connection, "wallet", WALLETS, wealth),
            *_accounts(connection, "token", TOKENS, wealth),
            *_sessions(connection),
        ]


def _accounts(connection: Connection, what: str, question: str, wealth: int) -> Iterator[str]:
    for row in connection.execute(text(question)):
        expected = wealth - row.used - row.held
        if row.balance != expected:
            yield f"doubled: {what} {row.id} has {row.balance}, its sessions leave {expected}"
        if row.balance != wealth + row.moved:
            yield f"doubled: {what} {row.id} has {row.balance}, its ledger rows leave {wealth + row.moved}"
        # A wallet counts a used amount and requests, a token what is held of it too.
        used = row.used if what == "wallet" else row.used + row.held
        if (row.counted_quota, row.counted_requests) != (used, row.settles):
            counted = f"{row.counted_quota} in {row.counted_requests} requests"
            yield f"doubled: {what} {row.id} has counted {counted}, its sessions {used} in {row.settles}"


def _sessions(connection: Connection) -> Iterator[str]:
    for row in connection.execute(text(SESSIONS)):
        if row.moved != row.expected:
            state = row.state or "of no session"
            yield f"doubled: {row.account_type} of {row.request_id} ({state}) moved {row.moved}, not {row.expected}"
    for row in connection.execute(text(UNMOVED)):
        yield f"doubled: {row.account_type} of {row.request_id} settled with {row.actual_quota} moved nothing"
