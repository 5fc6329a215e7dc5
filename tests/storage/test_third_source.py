"""A funding source of one's own is one file and one line."""

import pytest
from sqlalchemy import Engine

from relay_billing import InsufficientUserQuota, Ledger, Outcome, Policy, RefundJob, SettleJob
from relay_billing.domain.funding import FundingSource
from relay_billing.domain.sources import FUNDING
from tests.fixtures.accounts import Clock, given, token, wallet
from tests.fixtures.credit import CreditFunding

SOURCES: tuple[FundingSource, ...] = (*FUNDING, CreditFunding())


def test_a_registered_source_holds_settles_and_gives_back(engine: Engine) -> None:
    given(engine, user=[{"id": 1, "quota": 100}], token=[{"id": 1, "user_id": 1, "remain_quota": 10_000}])
    ledger = Ledger(engine, Policy(trust_quota=0), Clock(), funding=SOURCES)
    for request_id in ("r1", "r2"):
        session = ledger.pre_consume(request_id=request_id, user_id=1, token_id=1, quota=250, preference="credit_only")
        assert (session.source, session.preference) == ("credit", "credit_only")
    assert wallet(engine) == -400
    with pytest.raises(InsufficientUserQuota):
        ledger.reserve("r1", 351)
    ledger.reserve("r1", 350)
    assert ledger.apply([SettleJob("r1", 80), RefundJob("r2")]) == [Outcome.APPLIED] * 2
    assert wallet(engine) == 20
    assert token(engine) == 10_000 - 80
    assert ledger.reconcile() == []


def test_a_source_that_is_not_registered_is_no_preference(engine: Engine) -> None:
    given(engine, user=[{"id": 1, "quota": 100}], token=[{"id": 1, "user_id": 1, "remain_quota": 10_000}])
    session = Ledger(engine, Policy(trust_quota=0)).pre_consume(
        request_id="r1", user_id=1, token_id=1, quota=50, preference="credit_only"
    )
    assert (session.source, session.preference) == ("wallet", "subscription_first")
