"""PostgreSQL's fast path for jobs: applies the plain settles and refunds of a batch in one auto-committed statement.

The guards: the session is `preconsumed` (semantics §2), paid by the wallet, no shadow (§13), and its intent, if it has
one, equals the job (§9); its user exists (§5: else it parks); its token exists and is the user's, or it has none (§5:
else `token_error`, §6: else skipped); if low wallets are announced, the wallet is above the threshold before and after
all jobs of the batch, so that no event is due.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from relay_billing.domain.fast_settle import Plain
from relay_billing.domain.outcomes import Answer
from relay_billing.store.account_shapes import OWN
from relay_billing.store.account_words import AccountWords
from relay_billing.store.commands import Alone
from relay_billing.store.fast_paths import FastBatch

_COLUMNS = ("n", "user_id", "held", "held_at", "intended_at")
_WRITTEN = """
    WITH j AS MATERIALIZED (
        SELECT * FROM unnest(%(request_ids)s::varchar[], %(actuals)s::bigint[], %(reasons)s::varchar[])
            WITH ORDINALITY AS j(request_id, actual, reason, n)
    ), s AS MATERIALIZED (
        SELECT j.*, b.user_id, b.token_id, b.pre_consumed_quota AS held, b.token_consumed, b.created_at AS held_at,
            b.intent_at AS intended_at, b.state, b.intent, b.intent_quota
        FROM j JOIN billing_sessions AS b ON b.request_id = j.request_id AND b.source = 'wallet' AND NOT b.shadow
        ORDER BY b.request_id FOR NO KEY UPDATE OF b
    ), u AS MATERIALIZED (
        SELECT s.*, {wallet} AS wallet FROM s JOIN users ON users.id = s.user_id
        WHERE state = 'preconsumed' AND (intent IS NULL
            OR (intent = 'refund' AND actual IS NULL) OR (intent = 'settle' AND intent_quota = actual))
            AND (SELECT count(*) FROM s) >= 0
        ORDER BY users.id FOR NO KEY UPDATE OF users
    ), t AS MATERIALIZED (
        SELECT u.*, {remain} AS remain
        FROM u JOIN tokens AS k ON k.id = u.token_id AND k.user_id = u.user_id
        WHERE (SELECT count(*) FROM u) >= 0
        ORDER BY k.id FOR NO KEY UPDATE OF k
    ), p AS MATERIALIZED (
        SELECT * FROM (
            SELECT o.*, wallet + sum(change) OVER (PARTITION BY user_id ORDER BY n)::bigint AS wallet_left,
                remain + sum(token_change) OVER (PARTITION BY token_id ORDER BY n)::bigint AS token_left,
                wallet + sum(change) OVER (PARTITION BY user_id)::bigint AS wallet_after
            FROM (SELECT w.*, held - COALESCE(actual, 0) AS change,
                    CASE WHEN token_id IS NULL THEN 0 ELSE token_consumed - COALESCE(actual, 0) END AS token_change
                FROM (SELECT * FROM t UNION ALL SELECT u.*, 0 FROM u WHERE token_id IS NULL) AS w) AS o) AS summed
        WHERE %(lowest_wallet)s::bigint IS NULL
            OR (wallet >= %(lowest_wallet)s::bigint AND wallet_after >= %(lowest_wallet)s::bigint)
    ), moved_wallet AS (
        UPDATE users SET quota = {wallet} + d.change, used_quota = {usage} + d.used,
            request_count = {requests} + d.requests
        FROM (SELECT user_id, sum(change)::bigint AS change,
                CASE WHEN %(counted)s THEN COALESCE(sum(actual), 0)::bigint ELSE 0 END AS used,
                CASE WHEN %(counted)s THEN count(actual) ELSE 0 END AS requests
            FROM p GROUP BY user_id ORDER BY user_id) AS d
        WHERE users.id = d.user_id AND (d.change <> 0 OR d.requests > 0)
    ), moved_token AS (
        UPDATE tokens AS k SET remain_quota = {remain} + d.change, used_quota = {token_used} - d.change{token_stamp}
        FROM (SELECT token_id, sum(token_change)::bigint AS change FROM p GROUP BY token_id ORDER BY token_id) AS d
        WHERE k.id = d.token_id AND d.change <> 0
    ), closed AS (
        UPDATE billing_sessions AS b SET state = CASE WHEN p.actual IS NULL THEN 'refunded' ELSE 'settled' END,
            actual_quota = COALESCE(p.actual, b.actual_quota), reason = p.reason, parked = false, parked_reason = NULL,
            closed_at = %(now_ms)s
        FROM p WHERE b.request_id = p.request_id AND b.state = p.state
    ), entered AS (
        INSERT INTO billing_ledger (request_id, account_type, account_id, kind, amount, balance_after, created_at)
        SELECT request_id, leg.account_type, leg.account_id,
            CASE WHEN actual IS NULL THEN 'refund' ELSE 'settle' END, leg.amount, leg.left_, %(now_ms)s
        FROM p, LATERAL (VALUES (1, 'wallet', user_id, change, wallet_left),
            (2, 'token', token_id, token_change, token_left)) AS leg (nr, account_type, account_id, amount, left_)
        WHERE leg.amount <> 0 ORDER BY n, leg.nr
    )
    SELECT n, user_id, held, held_at, intended_at FROM p
"""


def settles_of(words: AccountWords) -> str:
    """The statement, for account tables that these words describe."""
    filled = _WRITTEN.format(
        wallet=words.number("users.quota"),
        usage=words.number("users.used_quota"),
        requests=words.number("users.request_count"),
        remain=words.number("k.remain_quota"),
        token_used=words.number("k.used_quota"),
        token_stamp=words.token_stamp(),
    )
    return " ".join(filled.split())


SETTLES = settles_of(AccountWords(OWN))
"""Locks sessions by request id, users by id, tokens by id, as the batched hold does (`fast_hold_batch.HOLDS`).

A session's state is tested after it is locked, not together with its id: for that, a plan might scan the whole index
of open sessions.
"""


def fast_settles(
    statement: str, plain: Sequence[Plain], now_ms: int, *, counted: bool, lowest_wallet: int | None
) -> FastBatch[Answer]:
    """The `statement` of `settles_of` for one or more jobs; `now_ms` in Unix milliseconds.

    `counted`: whether settles count into the user's usage. `lowest_wallet`: quota that a wallet must have before and
    after; None: no limit.
    """
    parameters: dict[str, object] = {
        "request_ids": [each.job.request_id for each in plain],
        "actuals": [each.actual for each in plain],
        "reasons": [each.job.reason for each in plain],
        "now_ms": now_ms,
        "now": now_ms // 1000,
        "counted": counted,
        "lowest_wallet": lowest_wallet,
    }
    return FastBatch(Alone(statement, parameters, _COLUMNS), partial(_answers, plain))


def _answers(plain: Sequence[Plain], rows: Sequence[Mapping[str, Any]]) -> dict[int, Answer]:
    found = {}
    for row in rows:
        each = plain[row["n"] - 1]
        found[each.at] = each.applied(
            user_id=row["user_id"], held=row["held"], held_at=row["held_at"], intended_at=row["intended_at"]
        )
    return found
