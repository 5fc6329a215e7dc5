"""PostgreSQL's fast path for a batch: takes its plain holds in one auto-committed statement, and leaves the rest.

The guards are tested in the order of the requests, each on the balances that earlier requests leave: no session has the
id (semantics §3.1); no active subscription is tried first (§3.2, §3.6); the wallet covers the hold, and stays high
enough that no low wallet must be announced (§3.3); if wallet and token were above the trust limit, they still are
(§3.4); the token exists, is the user's, and covers the hold (§3.5); in a relay's tables user and token may be used
(§12). A request is admitted only if it and all earlier ones of its user pass.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from relay_billing.domain.fast_hold_batch import Sendable
from relay_billing.domain.sessions import BillingSession, State
from relay_billing.store.account_shapes import OWN
from relay_billing.store.account_words import AccountWords
from relay_billing.store.commands import Alone
from relay_billing.store.fast_paths import FastBatch

_COLUMNS = ("n", "trusted", "user_quota", "created_at")
_WRITTEN = """
    WITH j AS MATERIALIZED (
        SELECT * FROM unnest(%(request_ids)s::varchar[], %(user_ids)s::bigint[], %(token_ids)s::bigint[],
                %(quotas)s::bigint[], %(models)s::varchar[], %(preferences)s::varchar[], %(expiries)s::bigint[],
                %(limits)s::bigint[], %(may_trust)s::boolean[], %(asks)s::boolean[], %(nths)s::bigint[])
            WITH ORDINALITY AS j(request_id, user_id, token_id, quota, model_name, preference, expires_at, trust_limit,
                may_trust, asks, nth, n)
        WHERE NOT EXISTS (SELECT FROM billing_sessions AS b WHERE b.request_id = j.request_id)
            AND NOT (asks AND EXISTS (SELECT FROM user_subscriptions AS b
                WHERE b.user_id = j.user_id AND b.status = 'active' AND b.end_time > %(now)s))
    ), u AS MATERIALIZED (
        SELECT j.*, {wallet} AS wallet FROM j JOIN users ON users.id = j.user_id{usable_user}
        ORDER BY users.id FOR NO KEY UPDATE OF users
    ), t AS MATERIALIZED (
        SELECT u.*, {remain} AS remain, {unlimited} AS unlimited
        FROM u JOIN tokens AS k ON k.id = u.token_id AND k.user_id = u.user_id{usable_token}
        WHERE (SELECT count(*) FROM u) >= 0
        ORDER BY k.id FOR NO KEY UPDATE OF k
    ), h AS MATERIALIZED (
        SELECT * FROM (
            SELECT s.*, count(*) OVER w = nth AND bool_and(
                CASE WHEN trusted
                    THEN may_trust AND wallet_left > trust_limit AND (unlimited OR token_left > trust_limit)
                    ELSE wallet_left >= %(wallet_rest)s AND (unlimited OR token_left >= 0) END) OVER w AS admitted
            FROM (SELECT o.*, wallet - sum(hold) OVER (PARTITION BY user_id ORDER BY n)::bigint AS wallet_left,
                    remain - sum(hold) OVER (PARTITION BY token_id ORDER BY n)::bigint AS token_left
                FROM (SELECT c.*, CASE WHEN trusted THEN 0 ELSE quota END AS hold
                    FROM (SELECT t.*, trust_limit > 0 AND wallet > trust_limit
                        AND (unlimited OR remain > trust_limit) AS trusted FROM t) AS c) AS o) AS s
            WINDOW w AS (PARTITION BY user_id ORDER BY n)) AS judged
        WHERE admitted
    ), moved_wallet AS (
        UPDATE users SET quota = {wallet} - d.taken
        FROM (SELECT user_id, sum(hold)::bigint AS taken FROM h WHERE hold > 0 GROUP BY user_id ORDER BY user_id) AS d
        WHERE users.id = d.user_id
    ), moved_token AS (
        UPDATE tokens AS k SET remain_quota = {remain} - d.taken, used_quota = {token_used} + d.taken{token_stamp}
        FROM (SELECT token_id, sum(hold)::bigint AS taken FROM h WHERE hold > 0
            GROUP BY token_id ORDER BY token_id) AS d
        WHERE k.id = d.token_id
    ), opened AS (
        INSERT INTO billing_sessions (request_id, user_id, token_id, quota, model_name, preference, playground, state,
            source, pre_consumed_quota, token_consumed, trusted, created_at, expires_at, user_quota)
        SELECT request_id, user_id, token_id, quota, model_name, preference, false, %(state)s, %(source)s, hold, hold,
            trusted, %(created_at)s, expires_at, wallet_left + hold
        FROM h ORDER BY request_id COLLATE "C"
    ), entered AS (
        INSERT INTO billing_ledger (request_id, account_type, account_id, kind, amount, balance_after, created_at)
        SELECT request_id, leg.account_type, leg.account_id, 'pre_consume', - hold, leg.left_, %(created_at)s
        FROM h, LATERAL (VALUES (1, 'wallet', user_id, wallet_left), (2, 'token', token_id, token_left))
            AS leg (nr, account_type, account_id, left_)
        WHERE hold > 0 ORDER BY n, leg.nr
    )
    SELECT n, trusted, wallet_left + hold, %(created_at)s FROM h
"""


def holds_of(words: AccountWords) -> str:
    """The statement, for account tables that these words describe."""
    filled = _WRITTEN.format(
        wallet=words.number("users.quota"),
        remain=words.number("k.remain_quota"),
        token_used=words.number("k.used_quota"),
        unlimited=words.flag("k.unlimited_quota"),
        usable_user=words.usable_user("users"),
        usable_token=words.usable_token("k"),
        token_stamp=words.token_stamp(),
    )
    return " ".join(filled.split())


HOLDS = holds_of(AccountWords(OWN))
"""Locks users by id, then tokens by id. Each lock step sorts, reads the step before it to its end, and joins it to an
index, never to another list: a cached plan would scan that list once per row. Accounts are updated in order too, so
that more of the new row versions fit on their page. Text SQL: Core has no data-changing WITH that locks first.
"""


def fast_holds(statement: str, plain: Sequence[Sendable], now: int) -> FastBatch[BillingSession]:
    """The `statement` of `holds_of` for one or more requests; `now` in Unix seconds."""
    assumed = [each.assumed for each in plain]
    like = [each.wallet for each in assumed if each.wallet is not None]
    asked = [each.request for each in plain]
    parameters: dict[str, object] = {
        "request_ids": [each.request_id for each in asked],
        "user_ids": [each.user_id for each in asked],
        "token_ids": [each.token_id for each in asked],
        "quotas": [each.quota for each in asked],
        "models": [each.model_name for each in asked],
        "preferences": [each.preference for each in like],
        "expiries": [each.expires_at for each in like],
        "limits": [each.trust_quota for each in assumed],
        "may_trust": [each.trusted is not None for each in assumed],
        "asks": [each.subscription is not None for each in assumed],
        "nths": [each.nth for each in plain],
        "wallet_rest": assumed[0].wallet_rest,
        "now": now,
        "state": State.PRECONSUMED.value,
        "source": like[0].source,
        "created_at": like[0].created_at,
    }
    return FastBatch(Alone(statement, parameters, _COLUMNS), partial(_sessions, plain))


def _sessions(plain: Sequence[Sendable], rows: Sequence[Mapping[str, Any]]) -> dict[int, BillingSession]:
    found = {}
    for row in rows:
        each = plain[row["n"] - 1]
        found[each.at] = each.taken(trusted=row["trusted"], user_quota=row["user_quota"], created_at=row["created_at"])
    return found
