"""Batches end the same with the fast paths as without them: every answer, and every row of every table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from relay_billing import Ledger, Policy, PreConsume, RefundJob, SettleJob
from relay_billing.domain.choices import SubscriptionOverflow
from relay_billing.domain.ownership import Accounts, Calendar
from relay_billing.flows import settlements
from relay_billing.schema import tokens, users
from tests.fixtures import accounts as tables
from tests.fixtures.accounts import START
from tests.fixtures.names import NASTY
from tests.fixtures.new_api import new_api_rows
from tests.fixtures.twins import Twins, answered, stored, twins, unchained

DAY_S = 86_400
USERS, TOKENS, MOST = 3, 5, 10
NAMES = st.sampled_from([*"abcdefghijkl", *NASTY[:3]])
AMOUNTS = st.one_of(st.integers(1, 120), st.sampled_from([0, 100, 400, 401, 900]))
PREFERENCES = st.sampled_from(["wallet_only", "wallet_first", "wallet_first", "", None, "subscription_only", "odd"])


@st.composite
def requests(draw: st.DrawFn) -> PreConsume:
    user = draw(st.integers(1, USERS))
    # Mostly one of the user's own: tokens belong to users in turn.
    mine = st.sampled_from([user, user, user + USERS])
    token = draw(st.one_of(mine, mine, st.integers(1, TOKENS + 1), st.none()))
    return PreConsume(
        draw(NAMES),
        user,
        token,
        draw(AMOUNTS),
        draw(st.sampled_from(["m", 'a"b\\c{,}é\n', ""])),
        draw(PREFERENCES),
        playground=token is None,
        force_pre_consume=draw(st.sampled_from([False, False, True])),
        hold_ttl=draw(st.sampled_from([None, None, 60])),
    )


REASONS = st.sampled_from([None, "client_gone", 'say "no"\\'])
JOBS = st.one_of(
    st.builds(SettleJob, NAMES, st.one_of(AMOUNTS, st.just(1_300)), REASONS),
    st.builds(SettleJob, NAMES, AMOUNTS, REASONS),
    st.builds(RefundJob, NAMES, REASONS),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A call that both ledgers get; `seconds` pass before it."""

    name: str
    items: Sequence[object]
    seconds: int = 0

    def __call__(self, ledger: Ledger) -> object:
        match self.name:
            case "hold":
                return ledger.pre_consume_many(self.items)  # type: ignore[arg-type]
            case "apply":
                # With all that a log line or a metric would say.
                return ledger.run(settlements.apply, self.items)  # type: ignore[arg-type]
            case "intend":
                ledger.intend(self.items)  # type: ignore[arg-type]
                return None
            case "reserve":
                return ledger.reserve("a", 150)
            case "sweep":
                return (ledger.apply_intents(), ledger.expire_holds())
        raise AssertionError(self.name)


def _step(name: str, items: st.SearchStrategy[object] | None = None) -> st.SearchStrategy[Step]:
    some = st.just([]) if items is None else st.lists(items, min_size=1, max_size=MOST)
    return st.builds(Step, st.just(name), some, st.sampled_from([0, 0, 0, 1, 61, 4_000]))


STEPS = st.lists(
    st.one_of(
        _step("hold", requests()),
        _step("hold", requests()),
        _step("apply", JOBS),
        _step("apply", JOBS),
        _step("intend", JOBS),
        _step("reserve"),
        _step("sweep"),
        st.sampled_from([Step("delete a token", [of]) for of in (1, 2)]),
        st.just(Step("delete a user", [3])),
    ),
    min_size=2,
    max_size=8,
)
POLICIES = st.builds(
    Policy,
    trust_quota=st.sampled_from([0, 0, 400]),
    trust_max_inflight=st.sampled_from([0, 0, 1]),
    subscription_overflow=st.sampled_from(list(SubscriptionOverflow)),
    max_settle_quota=st.sampled_from([0, 1_200]),
    record_usage=st.booleans(),
    announce=st.booleans(),
    wallet_low_quota=st.sampled_from([0, 300]),
    intent_grace=st.just(0),
)
RELAYS_POLICIES = st.builds(
    replace, POLICIES, accounts=st.just(Accounts.NEW_API), subscription_calendar=st.sampled_from(list(Calendar))
)


@st.composite
def accounts(draw: st.DrawFn) -> dict[str, tables.Rows]:
    funds = st.one_of(st.integers(200, 3_000), st.sampled_from([-5, 0, 300, 401, 10**6]))
    return {
        "user": [{"id": of, "quota": draw(funds)} for of in range(1, USERS + 1)],
        "token": [
            {
                "id": of,
                "user_id": (of - 1) % USERS + 1,
                "remain_quota": draw(funds),
                "unlimited_quota": draw(st.booleans()),
            }
            for of in range(1, TOKENS + 1)
        ],
        "plan": [{"id": 1, "title": "daily", "quota_reset_period": "daily"}],
        "subscription": [
            {
                "id": of,
                "user_id": of,
                "plan_id": draw(st.integers(0, 1)),
                "amount_total": draw(st.sampled_from([0, 500])),
            }
            | {"start_time": START - 5, "end_time": START + draw(st.sampled_from([50, DAY_S]))}
            for of in draw(st.sets(st.integers(1, USERS), max_size=2))
        ],
    }


@st.composite
def relays_accounts(draw: st.DrawFn) -> dict[str, tables.Rows]:
    """The same in a relay's own tables, with what only these can have."""
    rows = draw(accounts())
    amount = st.sampled_from([None, 0, 10**6])
    overflow = st.sampled_from([None, True, False])
    mostly = st.sampled_from([*(None,) * 12, DELETED])
    user = [
        {**each, "status": draw(st.sampled_from([*(1,) * 9, 2, None])), "deleted_at": draw(mostly)}
        | draw(st.sampled_from([{}, {}, {}, {}, {"quota": None, "used_quota": None, "request_count": None}]))
        for each in rows["user"]
    ]
    token = [
        {**each, "status": draw(st.sampled_from([*(1,) * 9, 2, 4, None])), "deleted_at": draw(mostly)}
        | {"expired_time": draw(st.sampled_from([-1, -1, -1, 0, START + 60])), "used_quota": draw(amount)}
        | draw(st.sampled_from([{}, {}, {}, {}, {"remain_quota": None}, {"unlimited_quota": None}]))
        for each in rows["token"]
    ]
    plan = [{**each, "allow_wallet_overflow": draw(overflow)} for each in rows["plan"]]
    subscription = [
        {**each, "allow_wallet_overflow": draw(overflow)}
        | {"last_reset_time": draw(st.sampled_from([None, 0, START - 9])), "next_reset_time": draw(NEXT)}
        for each in rows["subscription"]
    ]
    return {"user": user, "token": token, "plan": plan, "subscription": subscription}


DELETED = datetime(2026, 1, 1, tzinfo=UTC)
NEXT = st.sampled_from([None, 0, START + 40, START + DAY_S])


@pytest.fixture(scope="module", params=[False, True], ids=["our own tables", "a relay's tables"])
def both(postgresql_url: str, request: pytest.FixtureRequest) -> Iterator[Twins]:
    with twins(postgresql_url, beside=request.param) as made:
        yield made


def _deleted(both: Twins, step: Step) -> bool:
    """Carry out what no ledger does."""
    if not step.name.startswith("delete"):
        return False
    table = tokens if step.name.endswith("token") else users
    for engine in both.engines():
        with engine.begin() as connection:
            connection.execute(delete(table).where(table.c.id == step.items[0]))
    return True


@pytest.mark.timeout(3_000)
def test_whatever_comes_the_books_are_those_of_the_general_path(both: Twins, pytestconfig: pytest.Config) -> None:
    @settings(
        max_examples=pytestconfig.getoption("--lives"),
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        policy=RELAYS_POLICIES if both.beside else POLICIES,
        rows=relays_accounts() if both.beside else accounts(),
        steps=STEPS,
    )
    def play(policy: Policy, rows: dict[str, tables.Rows], steps: list[Step]) -> None:
        both.empty()
        for engine in both.engines():
            (new_api_rows if both.beside else tables.given)(engine, **rows)
        fast, general = both.ledgers(policy)
        for step in steps:
            both.clock.at += step.seconds
            if _deleted(both, step):
                continue
            expected = answered(general, step)
            assert answered(fast, step) == expected
            event(f"{step.name}: {type(expected).__name__}")
        assert stored(both.fast) == stored(both.general)
        assert list(fast.findings()) == list(general.findings())
        assert [unchained(engine) for engine in both.engines()] == [[], []]

    play()
