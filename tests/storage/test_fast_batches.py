"""What one statement decides of a batch, case by case: as much as is plain, and as the general path would have."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, delete, update
from sqlalchemy.exc import OperationalError

from relay_billing import BillingError, BillingSession, Ledger, Outcome, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.jobs import Job
from relay_billing.flows import settlements
from relay_billing.schema import tokens, users
from relay_billing.store import drivers, pipeline
from relay_billing.store.commands import Alone, Reply
from tests.fixtures.accounts import START, Clock, given, states, wallet
from tests.fixtures.twins import Twins, answered, stored, twins, unchained

HELD = Policy(trust_quota=0)
TRUSTING = Policy(trust_quota=400)
TOLD = Policy(trust_quota=0, announce=True, wallet_low_quota=500)
RICH, POOR, BOUGHT = 1, 2, 3
"""Users; the last has a subscription. Each has a token of the same number, with 1,050 quota."""
SHORT, UNLIMITED, DELETED, MOVED = 11, 12, 13, 14
"""More tokens of the rich user: with 100 quota, without limit; when jobs come, one is gone and one is another's."""
WEALTH = {RICH: 1_050, POOR: 300, BOUGHT: 10_000, 4: 500}
ODD = '{"b",\\null}'
GONE = 4
"""A user who is gone when jobs come."""


def ask(name: str, user: int = RICH, quota: int = 100, token: int | None = 0, **other: Any) -> PreConsume:  # noqa: ANN401
    """A request of the wallet, with the user's own token."""
    held = PreConsume(name, user, user if token == 0 else token, quota, "m", "wallet_only", playground=token is None)
    return replace(held, **other)


# what: policy, batch, names of those that the statement takes
HOLDINGS: dict[str, tuple[Policy, Sequence[PreConsume], Sequence[str]]] = {
    "of several users": (HELD, [ask("a"), ask("b", POOR), ask("c"), ask("d", BOUGHT)], "abcd"),
    "to the last unit": (HELD, [ask("a", quota=400), ask("b", quota=600)], "ab"),
    "more than there is": (HELD, [ask("a", quota=600), ask("b", quota=600), ask("c", quota=400), ask("d", POOR)], "ad"),
    "more than the token has": (HELD, [ask("a", token=SHORT), ask("b", token=SHORT), ask("c")], "a"),
    "an unlimited token": (HELD, [ask("a", token=UNLIMITED), ask("b", token=UNLIMITED)], "ab"),
    "another's token": (HELD, [ask("a"), ask("b", quota=500, token=POOR), ask("c", quota=600), ask("d", POOR)], "ad"),
    "no such token": (HELD, [ask("a", token=99, quota=500), ask("b", quota=600), ask("c", POOR)], "c"),
    "nobody": (HELD, [ask("a", 99), ask("b"), ask("c")], "bc"),
    "one id twice": (HELD, [ask("a"), ask("a"), ask("b"), ask("c", POOR), ask("d", POOR)], "acd"),
    "one id twice, of two users": (
        HELD,
        [ask("a", quota=1_001), ask("a", POOR), ask("b", POOR, 250), ask("c", 3)],
        "c",
    ),
    "a replay": (HELD, [ask("old", quota=50), ask("a", quota=900), ask("b", POOR)], "b"),
    "an id of another's": (HELD, [ask("old", POOR), ask("a", POOR), ask("b")], "b"),
    "nothing to hold": (HELD, [ask("a"), ask("b", quota=0), ask("c"), ask("d", POOR)], "ad"),
    "a playground": (HELD, [ask("a"), ask("b", token=None), ask("c"), ask("d", POOR)], "ad"),
    "a few of many": (HELD, [ask("a"), *(ask(name, token=None) for name in "bcd")], ""),
    "no subscription to ask": (HELD, [ask("a", preference=""), ask("b", POOR, preference="subscription_first")], "ab"),
    "a subscription to ask": (HELD, [ask("a", 3), ask("b", 3, preference=""), ask("c", 3), ask("d")], "ad"),
    "a subscription alone": (
        HELD,
        [ask("a", 3, preference="subscription_only"), ask("b", 3), ask("c"), ask("d")],
        "cd",
    ),
    "times of their own": (HELD, [ask("a", hold_ttl=5), ask("b"), ask("c", hold_ttl=7)], "abc"),
    "odd words": (HELD, [ask("null", model_name='a"b\\c{,}é\n'), ask(ODD, model_name="null")], ["null", ODD]),
    "trusted": (TRUSTING, [ask("a"), ask("b"), ask("c", POOR)], "abc"),
    "trusted by one token": (TRUSTING, [ask("a", token=SHORT), ask("b"), ask("c", token=UNLIMITED)], "abc"),
    "forced between": (TRUSTING, [ask("a"), ask("b", force_pre_consume=True), ask("c")], "abc"),
    "no longer trusted": (
        TRUSTING,
        [
            ask("a", quota=650, token=UNLIMITED, force_pre_consume=True),
            *(ask(name, token=UNLIMITED) for name in "bc"),
            *(ask(name, POOR) for name in "de"),
        ],
        "ade",
    ),
    "a token no longer trusted": (
        TRUSTING,
        [*(ask(name, BOUGHT, 350, force_pre_consume=True) for name in "xy"), ask("z", BOUGHT), ask("a")],
        "xya",
    ),
    "trusted, but counted": (replace(TRUSTING, trust_max_inflight=1), [ask("a"), ask("b"), ask("c", POOR)], "c"),
    "above the trust limit": (TRUSTING, [ask("a"), ask("b", quota=401), ask("c", POOR)], "ac"),
    "told, far above": (TOLD, [ask("a", quota=200), ask("b", quota=200)], "ab"),
    "told, down to the threshold": (TOLD, [ask("a", quota=200), ask("b", quota=300), ask("c", BOUGHT)], "ac"),
}


def settle(names: str, actual: int = 60) -> list[Job]:
    """A settle of each."""
    return [SettleJob(name, actual, "why") for name in names]


def refund(names: str) -> list[Job]:
    """A refund of each."""
    return [RefundJob(name) for name in names]


OPEN: list[PreConsume] = [
    *(ask(name) for name in "ab"),
    ask("c", POOR),
    ask("p", token=None),
    ask("s", BOUGHT, preference="subscription_only"),
    ask("d", token=DELETED),
    ask("t", token=MOVED),
    ask("g", GONE),
    *(ask(name, BOUGHT) for name in "ijx"),
    *(ask(name, BOUGHT) for name in "fk"),
    ask("q", BOUGHT, hold_ttl=1),
    ask("l", BOUGHT, 9_000, token=None),
]
"""Sessions when jobs come. `i` has the intent to settle 60, `j` to refund; `f` is settled, `x` refunded, `k` parked,
`q` expired; the token of `d` and the user of `g` are gone, that of `t` is another's; `l` leaves its user little."""
LIMITED = replace(HELD, max_settle_quota=5_000)
LOW_TOLD = replace(TOLD, wallet_low_quota=300)

# what: policy, jobs, names of those that the statement applies
JOBS: dict[str, tuple[Policy, Sequence[Job], Sequence[str]]] = {
    "settles": (LIMITED, settle("abc"), "abc"),
    "one settle": (LIMITED, settle("a"), "a"),
    "refunds": (LIMITED, refund("abc"), "abc"),
    "both": (LIMITED, [*settle("a"), *refund("b"), *settle("c", 0)], "abc"),
    "exactly what was held": (LIMITED, settle("abc", 100), "abc"),
    "more than there is": (LIMITED, settle("abc", 4_000), "abc"),
    "usage that the relay counts": (replace(LIMITED, record_usage=False), settle("ab", 100) + refund("c"), "abc"),
    "a playground": (LIMITED, settle("p") + refund("a"), "pa"),
    "a playground's refund": (LIMITED, refund("p"), "p"),
    "one session twice": (LIMITED, settle("a") + settle("a", 70) + refund("ab"), "ab"),
    "implausible, then not": (LIMITED, settle("a", 5_001) + settle("ab"), "b"),
    "implausible without a limit": (replace(HELD, max_settle_quota=0), settle("a", 5_001), "a"),
    "nobody's": (LIMITED, settle("za") + refund("yb"), "ab"),
    "a subscription": (LIMITED, settle("as") + refund("b"), "ab"),
    "closed ones": (LIMITED, settle("fxa") + refund("b"), "ab"),
    "closed ones, refunded": (LIMITED, refund("fxa") + settle("b"), "ab"),
    "an expired one": (LIMITED, settle("qa"), "a"),
    "a parked one": (LIMITED, settle("ka"), "ka"),
    "as the relay intended": (LIMITED, settle("i") + refund("j"), "ij"),
    "not as the relay intended": (LIMITED, settle("ija", 61), "a"),
    "not as the relay intended, refunded": (LIMITED, refund("ija"), "ja"),
    "without its token": (LIMITED, settle("da") + refund("b"), "ab"),
    "without its token, refunded": (LIMITED, refund("da"), "a"),
    "with another's token": (LIMITED, settle("ta") + refund("b"), "ab"),
    "with another's token, refunded": (LIMITED, refund("ta"), "a"),
    "without its user": (LIMITED, settle("ga") + refund("b"), "ab"),
    "told, far above": (LOW_TOLD, settle("ab", 110), "ab"),
    "told, down to the threshold": (LOW_TOLD, settle("ac", 350) + settle("b", 200), ""),
    "told, low before": (replace(TOLD, wallet_low_quota=250), refund("c") + settle("a"), "a"),
}


@pytest.fixture(scope="module")
def module_twins(postgresql_url: str) -> Iterator[Twins]:
    with twins(postgresql_url) as made:
        yield made


@pytest.fixture
def both(module_twins: Twins) -> Twins:
    """The accounts of the cases, on both."""
    module_twins.empty()
    for engine in module_twins.engines():
        bought = {"id": 1, "user_id": BOUGHT, "plan_id": 0, "amount_total": 1_000, "start_time": 1}
        more = [(SHORT, 100, False), (UNLIMITED, 0, True), (DELETED, 500, False), (MOVED, 500, False)]
        given(
            engine,
            user=[{"id": of, "quota": wealth} for of, wealth in WEALTH.items()],
            token=[{"id": of, "user_id": of, "remain_quota": 1_050} for of in WEALTH]
            + [{"id": of, "user_id": RICH, "remain_quota": left, "unlimited_quota": free} for of, left, free in more],
            subscription=[{**bought, "end_time": START + 9_000}],
        )
    return module_twins


class Statements:
    """The statements that committed themselves, and what they dealt with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        carried_out = pipeline.executed_alone

        def executed(engine: Engine, alone: Alone) -> Reply:
            reply = carried_out(engine, alone)
            sent = alone.parameters.get("request_ids")
            if isinstance(sent, list):
                self.names += [sent[row["n"] - 1] for row in reply.rows]
            return reply

        monkeypatch.setattr(pipeline, "executed_alone", executed)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Statements:
    return Statements(monkeypatch)


def same(both: Twins) -> None:
    """Whole books, compared."""
    assert stored(both.fast) == stored(both.general)
    assert [unchained(engine) for engine in both.engines()] == [[], []]


@pytest.mark.parametrize("case", HOLDINGS)
def test_holds_are_those_that_the_general_path_takes(both: Twins, statements: Statements, case: str) -> None:
    policy, batch, taken = HOLDINGS[case]
    ledgers = both.ledgers(policy)
    for ledger in ledgers:
        assert isinstance(ledger.pre_consume_many([ask("old", quota=50)])[0], BillingSession)
    fast, general = (answered(ledger, lambda each: each.pre_consume_many(batch)) for ledger in ledgers)
    assert fast == general
    assert sorted(statements.names) == sorted(taken)
    same(both)
    for name in states(both.fast):
        assert ledgers[0].get(name) == ledgers[1].get(name)


def _before_jobs(both: Twins, policy: Policy) -> None:
    """`OPEN`, by the general path alone."""
    both.clock.at = 0
    for engine in both.engines():
        ledger = Ledger(engine, replace(policy, announce=False, max_settle_quota=5_000), both.clock, fast_paths=False)
        assert [each for each in ledger.pre_consume_many(OPEN) if isinstance(each, BillingError)] == []
        ledger.intend([SettleJob("i", 60), RefundJob("j")])
        ledger.apply([SettleJob("f", 60), RefundJob("x"), SettleJob("k", 5_001)])
        with engine.begin() as connection:
            connection.execute(delete(tokens).where(tokens.c.id == DELETED))
            connection.execute(update(tokens).where(tokens.c.id == MOVED).values(user_id=POOR))
            connection.execute(delete(users).where(users.c.id == GONE))
    both.clock.at = 2
    for engine in both.engines():
        assert Ledger(engine, policy, both.clock, fast_paths=False).expire_holds() == 1


@pytest.mark.parametrize("case", JOBS)
def test_jobs_end_as_the_general_path_ends_them(both: Twins, statements: Statements, case: str) -> None:
    policy, jobs, applied = JOBS[case]
    _before_jobs(both, policy)
    fast, general = (
        answered(ledger, lambda each: each.run(settlements.apply, jobs)) for ledger in both.ledgers(policy)
    )
    assert fast == general
    assert sorted(statements.names) == sorted(applied)
    same(both)


def test_a_fast_statement_whose_answer_was_lost_is_not_done_twice(both: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    carried_out = pipeline.executed_alone

    def lost(engine: Engine, alone: Alone) -> Reply:
        carried_out(engine, alone)
        return drivers.NOTHING_KNOWN

    monkeypatch.setattr(pipeline, "executed_alone", lost)
    ledger, _ = both.ledgers(HELD)
    held = ledger.pre_consume_many([ask("a"), ask("b")])
    assert held == [ledger.get("a"), ledger.get("b")]
    assert ledger.apply([SettleJob("a", 60), RefundJob("b")]) == [Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert wallet(both.fast) == WEALTH[RICH] - 60
    assert ledger.reconcile() == []


def test_what_a_statement_applied_stays_applied_when_the_rest_is_tried_again(
    both: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = both.ledgers(HELD)
    ledger.pre_consume_many([ask("a"), ask("b")])
    judge, tries = drivers._carried_out, []

    def failing(*given: Any, **options: Any) -> object:  # noqa: ANN401
        tries.append(given)
        if len(tries) == 1:
            raise OperationalError("a statement", None, Exception("the connection was lost"))
        return judge(*given, **options)

    monkeypatch.setattr(drivers, "_carried_out", failing)
    assert ledger.apply([SettleJob("a", 60), SettleJob("a", 60)]) == [Outcome.APPLIED, Outcome.DUPLICATE]
    answers = ledger.pre_consume_many([ask("c", quota=40), ask("c", quota=40)])
    assert answers == [ledger.get("c")] * 2
    assert ledger.reconcile() == []


THREADS, ROUNDS, BATCH, EACH = 8, 6, 20, 10
GRANTED = 500
"""Of 960 requests, so many can be paid."""


def test_overlapping_batches_on_one_hot_wallet_are_granted_exactly_what_there_is(postgresql: Engine) -> None:
    given(
        postgresql,
        user=[{"id": 1, "quota": GRANTED * EACH}, {"id": 2, "quota": 10**9}],
        token=[{"id": of, "user_id": of, "remain_quota": 10**9} for of in (1, 2)],
    )
    ledger = Ledger(postgresql, HELD, Clock())

    def hold(number: int) -> Counter[str]:
        # Every id is asked for by two threads, in orders of their own, between those of another user.
        names = [f"r{number // 2}-{of}" for of in range(BATCH)]
        random.Random(number).shuffle(names)
        batch = [ask(f"{user}{name}", user, EACH) for name in names for user in (1, 2)]
        return Counter(
            f"{user} {isinstance(answer, BillingSession)}"
            for answer, user in zip(ledger.pre_consume_many(batch), (1, 2) * BATCH, strict=True)
        )

    answers: Counter[str] = Counter()
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(hold, range(THREADS * ROUNDS * 2)):
            answers += found
    held = Counter(name[0] for name in states(postgresql))
    assert held == {"1": GRANTED, "2": THREADS * ROUNDS * BATCH}
    assert wallet(postgresql) == 0
    assert answers["2 False"] == 0
    assert ledger.reconcile() == []

    def close(number: int) -> Counter[Outcome]:
        names = random.Random(number).sample(sorted(states(postgresql)), 400)
        ended = [RefundJob(name) if of % 2 else SettleJob(name, 7) for of, name in enumerate(names)]
        return Counter(ledger.apply(ended))

    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(close, range(THREADS * 2)))
    ended = Counter(states(postgresql).values())
    applied = sum(each[Outcome.APPLIED] for each in outcomes)
    assert applied == ended["settled"] + ended["refunded"]
    assert ledger.reconcile() == []
