"""PostgreSQL's fast path: takes a plain hold in one auto-committed statement; else the general path decides."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from relay_billing.domain.fast_hold import Assumed
from relay_billing.domain.sessions import BillingSession
from relay_billing.store.account_shapes import OWN
from relay_billing.store.account_words import AccountWords
from relay_billing.store.commands import Alone
from relay_billing.store.fast_paths import FastHold

SHAPES = ("wallet", "trusted", "subscription")

_ACTIVE = "user_id = %(user_id)s AND status = 'active' AND end_time > %(now)s"
_HELD_ON_WALLET = """CASE
    WHEN %(trust_quota)s > 0 AND t.wallet > %(trust_quota)s AND (t.unlimited_quota OR t.remain_quota > %(trust_quota)s)
    THEN CASE WHEN %(trusted)s THEN 'trusted' END
    WHEN t.wallet - %(wallet_hold)s >= %(wallet_rest)s AND (t.unlimited_quota OR t.remain_quota >= %(wallet_hold)s)
    THEN 'wallet' END"""

_ASKING_SUBSCRIPTIONS = {
    "locked": f""", b AS MATERIALIZED (
        SELECT s.* FROM u, user_subscriptions AS s
        WHERE s.id = (SELECT id FROM user_subscriptions WHERE {_ACTIVE} ORDER BY end_time, id LIMIT 1)
            AND s.status = 'active' AND s.end_time > %(now)s
        FOR NO KEY UPDATE OF s
    )""",
    "known": """b.id AS subscription_id, {plan_id}, b.amount_total, b.amount_used, {last}, b.next_reset_time,
        b.end_time{and_period}""",
    "beside": "LEFT JOIN b ON true",
    "title": "plan.title",
    "plans": "LEFT JOIN subscription_plans AS plan ON plan.id = t.plan_id",
    "shape": f"""CASE
        WHEN t.subscription_id IS NOT NULL THEN CASE
            WHEN (t.amount_total = 0 OR (t.amount_total - t.amount_used >= %(subscription_hold)s
                AND (t.amount_total - t.amount_used - %(subscription_hold)s) * 100
                    > %(subscription_rest)s * t.amount_total))
                AND (t.unlimited_quota OR t.remain_quota >= %(subscription_hold)s){{stands_still}}
            THEN 'subscription' END
        WHEN %(wallet)s AND t.wallet >= %(wallet_hold)s
            AND NOT EXISTS (SELECT FROM user_subscriptions WHERE {_ACTIVE})
        THEN {_HELD_ON_WALLET} END""",
    "moved": """, moved_subscription AS (
        UPDATE user_subscriptions AS s SET amount_used = s.amount_used + h.hold{subscription_stamp} FROM h
        WHERE s.id = h.subscription_id
    )""",
}
_ASKING_THE_WALLET = {
    "locked": "",
    "known": """NULL::bigint AS subscription_id, NULL::bigint AS plan_id, NULL::bigint AS amount_total,
        NULL::bigint AS amount_used, NULL::bigint AS {period}""",
    "beside": "",
    "title": "NULL::varchar AS title",
    "plans": "",
    "shape": f"CASE WHEN t.wallet >= %(wallet_hold)s THEN {_HELD_ON_WALLET} END",
    "moved": "",
}
_WRITTEN = """
    WITH u AS MATERIALIZED (
        SELECT {quota} FROM users WHERE id = %(user_id)s{usable_user} FOR NO KEY UPDATE
    ){locked}, t AS MATERIALIZED (
        SELECT u.quota AS wallet, {remain}, {unlimited}, {known}
        FROM u CROSS JOIN tokens {beside}
        WHERE tokens.id = %(token_id)s AND tokens.user_id = %(user_id)s{usable_token}
        FOR NO KEY UPDATE OF tokens
    ), h AS MATERIALIZED (
        SELECT chosen.*,
            CASE shape WHEN 'wallet' THEN %(wallet_hold)s WHEN 'trusted' THEN %(trusted_hold)s
                ELSE %(subscription_hold)s END AS hold,
            CASE shape WHEN 'wallet' THEN %(wallet_source)s WHEN 'trusted' THEN %(trusted_source)s
                ELSE %(subscription_source)s END AS source
        FROM (SELECT t.*, {title}, {shape} AS shape FROM t {plans}) AS chosen
        WHERE shape IS NOT NULL
    ), moved_wallet AS (
        UPDATE users SET quota = {wallet} - h.hold FROM h
        WHERE users.id = %(user_id)s AND h.shape = 'wallet'
    ){moved}, moved_token AS (
        UPDATE tokens SET remain_quota = {left} - h.hold, used_quota = {token_used} + h.hold{token_stamp} FROM h
        WHERE tokens.id = %(token_id)s AND h.hold > 0
    ), opened AS (
        INSERT INTO billing_sessions (request_id, user_id, token_id, quota, model_name, preference, playground, state,
            source, pre_consumed_quota, token_consumed, trusted, created_at, expires_at, user_quota, subscription_id,
            subscription_plan_id, subscription_plan_title, subscription_amount_total,
            subscription_amount_used_after_pre_consume, subscription_pre_consumed, period)
        SELECT %(request_id)s, %(user_id)s, %(token_id)s, %(quota)s, %(model_name)s, %(preference)s, false, %(state)s,
            h.source, h.hold, h.hold, h.shape = 'trusted', %(created_at)s, %(expires_at)s,
            CASE WHEN h.subscription_id IS NULL THEN h.wallet END, h.subscription_id,
            h.plan_id, h.title, COALESCE(h.amount_total, 0),
            COALESCE(h.amount_used + h.hold, 0), CASE WHEN h.subscription_id IS NULL THEN 0 ELSE h.hold END,
            COALESCE(h.{period}, 0)
        FROM h
    ), entered AS (
        INSERT INTO billing_ledger (request_id, account_type, account_id, kind, amount, balance_after, created_at)
        SELECT %(request_id)s, leg.account_type, leg.account_id, 'pre_consume', - h.hold, leg.left_, %(created_at)s
        FROM h, LATERAL (VALUES
            (h.source, COALESCE(h.subscription_id, %(user_id)s), COALESCE(- h.amount_used, h.wallet) - h.hold),
            ('token', %(token_id)s, h.remain_quota - h.hold)) AS leg (account_type, account_id, left_)
        WHERE h.hold > 0
    )
    SELECT {columns} FROM h
"""
_COLUMNS = ("shape", "wallet", "subscription_id", "plan_id", "title", "amount_total", "amount_used", "period")
_CALENDAR_STANDS_STILL = """ AND (plan.id IS NULL OR plan.quota_reset_period = 'never' OR (t.last_reset_time > 0
    AND t.next_reset_time > %(now)s AND t.next_reset_time <= t.end_time))"""


def _filled(words: AccountWords) -> dict[str, str]:
    """What the shape of the account tables puts into the statements."""
    named, external = words.shape.foreign, words.shape.external

    def number(column: str) -> str:
        return words.number(column) + (f" AS {column.rpartition('.')[2]}" if named else "")

    return {
        "quota": number("quota"),
        "remain": number("tokens.remain_quota"),
        "unlimited": words.flag("tokens.unlimited_quota") + (" AS unlimited_quota" if named else ""),
        "plan_id": number("b.plan_id"),
        "last": number("b.last_reset_time"),
        "period": "period" if external else "last_reset_time",
        "and_period": f",{words.period('b')} AS period" if external else "",
        "stands_still": "" if external else _CALENDAR_STANDS_STILL,
        "usable_user": words.usable_user("users"),
        "usable_token": words.usable_token("tokens"),
        "wallet": words.number("users.quota"),
        "left": words.number("tokens.remain_quota"),
        "token_used": words.number("tokens.used_quota"),
        "token_stamp": words.token_stamp(),
        "subscription_stamp": words.subscription_stamp(),
    }


def hold_of(words: AccountWords, *, asks_subscriptions: bool) -> str:
    """The statement, for account tables that these words describe."""
    parts = _ASKING_SUBSCRIPTIONS if asks_subscriptions else _ASKING_THE_WALLET
    filled = _filled(words)
    columns = ", ".join((*_COLUMNS[:-1], filled["period"]))
    parts = {name: part.format(**filled) for name, part in parts.items()}
    return " ".join(_WRITTEN.format(**parts, **filled, columns=columns).split())


HOLD = hold_of(AccountWords(OWN), asks_subscriptions=True)
HOLD_ON_WALLET = hold_of(AccountWords(OWN), asks_subscriptions=False)
"""All guards, then all writes. Text SQL: Core has no data-changing WITH that locks first.

Locks in the lock order: user, subscription, token. Each part reads the one before it, or PostgreSQL would skip it.
In a relay's tables user and token must be usable too (semantics §12). If a guard fails, nothing is changed, and the
general path decides. A known request id fails the insert, and with it the whole statement. The second one is for
requests that no subscription may pay: half the plan, and so half the time.
"""


def fast_hold(asking: str, on_wallet: str, assumed: Assumed, now: int) -> FastHold:
    """The statement of `hold_of` that tests the guards `assumed` and takes the hold; `now` in Unix seconds.

    `asking`: for requests that a subscription may pay; `on_wallet`: for the others.
    """
    shapes = {shape: getattr(assumed, shape) for shape in SHAPES}
    any_shape: BillingSession = next(session for session in shapes.values() if session is not None)
    parameters: dict[str, object] = {
        "now": now,
        "trust_quota": assumed.trust_quota,
        "wallet_rest": assumed.wallet_rest,
        "subscription_rest": assumed.subscription_rest,
        "state": any_shape.state.value,
        **{
            name: getattr(any_shape, name)
            for name in (
                "request_id",
                "user_id",
                "token_id",
                "quota",
                "model_name",
                "preference",
                "created_at",
                "expires_at",
            )
        },
    }
    for shape, session in shapes.items():
        parameters[shape] = session is not None
        parameters[f"{shape}_source"] = "" if session is None else session.source
        parameters[f"{shape}_hold"] = 0 if session is None else session.pre_consumed_quota
    statement = on_wallet if assumed.subscription is None else asking
    return FastHold(Alone(statement, parameters, _COLUMNS), partial(_session_of, assumed))


def _session_of(assumed: Assumed, row: Mapping[str, Any]) -> BillingSession:
    if row["subscription_id"] is None:
        return assumed.taken(row["shape"], user_quota=row["wallet"])
    hold = 0 if assumed.subscription is None else assumed.subscription.pre_consumed_quota
    return assumed.taken(
        row["shape"],
        subscription_id=row["subscription_id"],
        subscription_plan_id=row["plan_id"],
        subscription_plan_title=row["title"],
        subscription_amount_total=row["amount_total"],
        subscription_amount_used_after_pre_consume=row["amount_used"] + hold,
        period=row["period"],
    )
