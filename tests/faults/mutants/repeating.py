"""Mutant: a settled session is settled again, as if its state were not asked for."""

from dataclasses import replace

from relay_billing.domain import sessions, settlements
from relay_billing.domain.sessions import State
from worker.celery import app as app

_settle = settlements._settle


def settle(sheet, session, job, sources):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Forget the state."""
    return _settle(sheet, replace(session, state=State.PRECONSUMED), job, sources)


settlements._settle = settle
sessions.TRANSITIONS[State.SETTLED] = frozenset({State.SETTLED})
