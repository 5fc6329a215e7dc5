"""Holds: how they begin, grow and are looked up (semantics §3, §4)."""

from collections.abc import Sequence

from relay_billing.domain import checks, holds
from relay_billing.domain.errors import BillingError, UnknownSession
from relay_billing.domain.fast_hold import assume
from relay_billing.domain.fast_hold_batch import sendable
from relay_billing.domain.refusals import Refusal
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.sessions import BillingSession
from relay_billing.flows.context import Context
from relay_billing.store import loads
from relay_billing.store.commands import Command, Steps
from relay_billing.store.last import Last
from relay_billing.store.rows import session_of
from relay_billing.store.statements import READ_SESSIONS
from relay_billing.store.writes import write

WORTH_A_STATEMENT = 0.5
"""Share of a batch that must be plain for the fast path: with less, its extra commit costs more than it saves."""


def pre_consume(context: Context, requests: Sequence[PreConsume]) -> Steps[list[BillingSession | BillingError]]:
    """Take a hold for each request in turn; return a session or an error for each, in order (semantics §3).

    The caller has checked the requests; a refused one does not affect the others. The fast path comes first; the
    general path decides the requests whose guards failed. In shadow it decides all, and a refusal is kept (§13).
    """
    answers: dict[int, BillingSession | BillingError] = {}
    fast = None if context.policy.shadow else context.dialect.fast
    if fast is not None and len(requests) == 1:
        guards = assume(context.policy, context.now_ms, requests[0], context.funding)
        if guards is not None:
            hold = fast.hold(guards, context.now_ms // 1000)
            (reply,) = yield [hold.command]
            if reply.rows:
                answers[0] = hold.session_of(reply.rows[0])
    elif fast is not None:
        plain = sendable(context.policy, context.now_ms, requests, context.funding)
        if len(plain) >= WORTH_A_STATEMENT * len(requests):
            batch = fast.holds(plain, context.now_ms // 1000)
            (reply,) = yield [batch.command]
            answers.update(batch.answers_of(reply.rows))
    rest = {at: request for at, request in enumerate(requests) if at not in answers}
    if rest:
        sheet = context.worksheet()
        yield from loads.load_for_holds(sheet, context.dialect.accounts, rest.values())
        for at, request in rest.items():
            try:
                changes = holds.pre_consume(sheet, request, context.funding)
                known = sheet.sessions.get(request.request_id)
                if known is None:
                    sheet.post(changes)
            except BillingError as error:
                answers[at] = error
                if context.policy.shadow:
                    sheet.refusals.append(Refusal.of(request, error, sheet.funds_of(request.user_id)))
                continue
            answers[at] = sheet.sessions[request.request_id] if known is None else known.as_replay()
        yield from write(sheet, context.dialect)
    return [answers[at] for at in range(len(requests))]


def reserve(context: Context, request_id: str, target_quota: int) -> Steps[BillingSession]:
    """Raise an open session's hold to `target_quota`, or change nothing; raises as `Ledger.reserve` (semantics §4)."""
    checks.request_id(request_id)
    checks.quota("target_quota", target_quota)
    sheet = context.worksheet()
    yield from loads.load_for_jobs(sheet, context.dialect.accounts, {request_id})
    changes = holds.reserve(sheet, request_id, target_quota, context.funding)
    if changes.movements:
        sheet.post(changes)
    yield from write(sheet, context.dialect)
    return sheet.sessions[request_id]


def get(context: Context, request_id: str) -> Steps[BillingSession]:
    """The session as it stands. Raises InvalidRequest or UnknownSession."""
    checks.request_id(request_id)
    (found,) = yield Last([Command.of_constant(READ_SESSIONS, ids=[request_id])])
    if not found.rows:
        raise UnknownSession(request_id)
    return session_of(found.rows[0])
