"""What may be sent of a batch, and that a session made for many is the one that is made for each."""

from dataclasses import replace

import pytest

from relay_billing import Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.fast_hold import assume
from relay_billing.domain.fast_hold_batch import sendable
from relay_billing.domain.fast_settle import lowest_wallet, plain
from relay_billing.domain.jobs import Job
from relay_billing.domain.sources import FUNDING

NOW_MS = 1_800_000_000_123
ASKED = [
    PreConsume("a", 1, 1, 100, "m", "wallet_first"),
    PreConsume("b", 2, 2, 5, "other", "wallet_first"),
    PreConsume("c", 1, 3, 7, "m", "", hold_ttl=9),
    PreConsume("d", 3, 4, 8, "m", None, force_pre_consume=True),
    PreConsume("e", 1, 1, 400, "", "no such word"),
    PreConsume("f", 2, 2, 1, "m", "wallet_only", hold_ttl=9),
]


@pytest.mark.parametrize("policy", [Policy(), Policy(trust_quota=0), Policy(trust_quota=400, trust_max_inflight=1)])
def test_a_session_made_for_a_manner_is_the_one_made_for_its_request(policy: Policy) -> None:
    found = sendable(policy, NOW_MS, ASKED, FUNDING)
    assert [each.request for each in found] == ASKED
    for each in found:
        own = assume(policy, NOW_MS, each.request, FUNDING)
        assert own is not None
        guards = ("trust_quota", "wallet_rest")
        assert [getattr(each.assumed, name) for name in guards] == [getattr(own, name) for name in guards]
        assert [(one.trusted is None, one.subscription is None) for one in (each.assumed, own)] == [
            (own.trusted is None, own.subscription is None)
        ] * 2
        for trusted, session in ((False, own.wallet), (True, own.trusted)):
            if session is not None:
                taken = each.taken(trusted=trusted, user_quota=5, created_at=NOW_MS)
                assert taken == session.changed(user_quota=5)


def test_a_users_requests_are_sent_up_to_the_first_that_cant_be() -> None:
    stops = [
        PreConsume("x", 1, 1, 0),
        PreConsume("x", 1, None, 5, playground=True),
        PreConsume("x", 1, 1, 5, preference="subscription_only"),
        PreConsume("x", 1, 1, 5_000_001),
        replace(ASKED[1], user_id=1),
    ]
    for stop in stops:
        found = sendable(Policy(), NOW_MS, [ASKED[0], ASKED[1], stop, *ASKED[2:]], FUNDING)
        assert [(each.request.request_id, each.at, each.nth) for each in found] == [
            ("a", 0, 1),
            ("b", 1, 1),
            ("d", 4, 1),
            ("f", 6, 2),
        ]


def test_a_session_is_sent_its_first_job_where_that_is_plausible() -> None:
    jobs: list[Job] = [
        SettleJob("a", 5),
        RefundJob("b"),
        SettleJob("b", 5),
        SettleJob("c", 11),
        SettleJob("c", 5),
        RefundJob("a"),
    ]
    assert [each.at for each in plain(Policy(max_settle_quota=10), jobs, FUNDING)] == [0, 1]
    assert [each.at for each in plain(Policy(max_settle_quota=0), jobs, FUNDING)] == [0, 1, 3]


def test_nothing_is_sent_where_wallets_pay_for_nothing() -> None:
    without = tuple(source for source in FUNDING if source.name != "wallet")
    assert plain(Policy(), [RefundJob("a")], without) == []
    assert sendable(Policy(), NOW_MS, ASKED, without) == []


def test_only_where_low_wallets_are_announced_is_there_a_lowest_one() -> None:
    assert lowest_wallet(Policy(wallet_low_quota=5)) is None
    assert lowest_wallet(Policy(wallet_low_quota=5, announce=True)) == 6
    assert lowest_wallet(Policy(wallet_low_quota=0, announce=True)) == 1
