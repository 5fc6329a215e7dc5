"""What the database says of one request, user or token; and that they are asked by index."""

import pytest
from sqlalchemy import Engine, event, insert, text

from relay_billing import InvalidRequest, Ledger, Policy, RefundJob, SettleJob
from relay_billing.domain.sessions import State
from relay_billing.flows import accounts, dead_letters, history, sessions, tokens
from relay_billing.flows.sessions import SessionFilter
from relay_billing.schema import billing_ledger, billing_sessions
from tests.fixtures.accounts import START, Clock, given

WEALTH = 1_000_000_000
HUGE = 600_000_000
KEY = "sk-0123456789abcdef"
MANY = 20_000


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """User 1 with five sessions, a second apart: settled, refunded, parked, open, and one of a subscription."""
    plan = [{"id": 1, "title": "Pro", "quota_reset_period": "never"}]
    bought = [{"id": 3, "user_id": 1, "plan_id": 1, "amount_total": 1_000, "end_time": START + 9_999}]
    given(
        engine,
        user=[{"id": 1, "username": "ada", "quota": WEALTH}, {"id": 2, "quota": 5}],
        token=[
            {"id": 1, "user_id": 1, "key": KEY, "name": "laptop", "remain_quota": WEALTH},
            {"id": 2, "user_id": 1, "key": "short", "unlimited_quota": True},
        ],
        plan=plan,
        subscription=bought,
    )
    clock = Clock()
    ledger = Ledger(engine, Policy(trust_quota=0), clock)
    for number, (name, preference) in enumerate(
        [("settled", ""), ("refunded", "wallet_only"), ("parked", "wallet_only"), ("open", "wallet_only")]
    ):
        clock.at = number
        ledger.pre_consume(request_id=name, user_id=1, token_id=1, quota=100 + number, preference=preference)
    ledger.apply([SettleJob("settled", 70), RefundJob("refunded", "upstream_error"), SettleJob("parked", HUGE)])
    return ledger


def test_a_story_has_the_session_its_ledger_rows_and_its_dead_letters(ledger: Ledger, engine: Engine) -> None:
    story = ledger.read(history.story, "parked")
    assert story.session is not None
    assert (story.session.parked, story.known) == (True, True)
    assert [(each.account_type, each.amount) for each in story.entries] == [("wallet", -102), ("token", -102)]
    (letter,) = story.letters
    Ledger(engine, Policy(trust_quota=0), Clock()).run(dead_letters.write_off, letter.id, "goodwill")
    after = ledger.read(history.story, "parked")
    assert [each.note for each in after.entries if each.kind == "adjust"] == ["goodwill"]
    assert after.letters[0].resolution == "written_off"
    assert not ledger.read(history.story, "nobody").known


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (SessionFilter(), ["open", "parked", "refunded", "settled"]),
        (SessionFilter(user_id=1, limit=2), ["open", "parked"]),
        (SessionFilter(user_id=2), []),
        (SessionFilter(token_id=1, state=State.PRECONSUMED), ["open", "parked"]),
        (SessionFilter(state=State.SETTLED), ["settled"]),
        (SessionFilter(before_ms=(START + 1) * 1000), ["settled"]),
        (SessionFilter(after_ms=(START + 3) * 1000), ["open"]),
        (SessionFilter(at_least=103), ["open"]),
    ],
)
def test_sessions_are_found_by_user_token_state_age_and_amount(
    ledger: Ledger, chosen: SessionFilter, found: list[str]
) -> None:
    assert [each.request_id for each in ledger.read(sessions.find, chosen)] == found


@pytest.mark.parametrize("limit", [0, 10_001])
def test_a_list_is_bounded(ledger: Ledger, limit: int) -> None:
    with pytest.raises(InvalidRequest, match="limit"):
        ledger.read(sessions.find, SessionFilter(limit=limit))


def test_a_user_is_shown_with_tokens_subscriptions_holds_and_last_movements(ledger: Ledger) -> None:
    found = ledger.read(accounts.account, 1, recent=2)
    assert found is not None
    assert (found.username, found.holds, found.held) == ("ada", 2, 205)
    assert [each.request_id for each in found.open_sessions] == ["open", "parked"]
    assert [(each.id, each.plan_title, each.amount_used) for each in found.subscriptions] == [(3, "Pro", 70)]
    assert [each.kind for each in found.movements] == ["refund", "pre_consume"]
    assert ledger.read(accounts.account, 99) is None


def test_of_a_key_no_more_than_its_beginning_leaves_the_database(ledger: Ledger, engine: Engine) -> None:
    found, short = ledger.read(tokens.token, 1), ledger.read(tokens.token, 2)
    assert found is not None
    assert short is not None
    assert (found.token.key, short.token.key) == ("sk-0***", "***")
    assert (found.token.remain_quota, found.held, found.holds) == (WEALTH - 70 - 205, 205, 2)
    assert short.token.unlimited_quota is True
    assert ledger.read(tokens.token, 99) is None


def test_stories_and_accounts_never_read_a_whole_table(postgresql: Engine) -> None:
    given(postgresql, user=[{"id": 1, "quota": 5}], token=[{"id": 1, "user_id": 1}])
    session = {
        "user_id": 1, "token_id": 1, "quota": 1, "model_name": "m", "preference": "wallet_only", "playground": False,
        "state": "settled", "source": "wallet", "pre_consumed_quota": 1, "token_consumed": 1, "trusted": False,
        "created_at": 1, "expires_at": 1,
    }  # fmt: skip
    row = {"account_type": "wallet", "kind": "settle", "amount": 1, "balance_after": 1, "created_at": 1}
    with postgresql.begin() as connection:
        sessions = [{**session, "request_id": f"r{each}"} for each in range(MANY)]
        connection.execute(insert(billing_sessions), sessions)
        entries = [{**row, "request_id": f"r{each}", "account_id": each % 1_000} for each in range(MANY)]
        connection.execute(insert(billing_ledger), entries)
        connection.execute(text("ANALYZE"))
    asked: list[tuple[str, object]] = []
    event.listen(postgresql, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    ledger = Ledger(postgresql)
    ledger.read(history.story, "r7")
    ledger.read(accounts.account, 1)
    ledger.read(tokens.token, 1)
    plans = []
    with postgresql.connect() as connection:
        for statement, parameters in list(asked):
            found = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)  # type: ignore[arg-type]
            plans += [line for (line,) in found]
    assert len(plans) > len(asked) > 0
    assert [
        line for line in plans if "Seq Scan on billing_sessions" in line or "Seq Scan on billing_ledger" in line
    ] == []
