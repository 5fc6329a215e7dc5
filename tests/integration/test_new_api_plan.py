"""docs/new-api.md, typed from its first command to its last beside a relay that goes on writing all the while."""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, create_engine, func, inspect, select

from relay_billing import Ledger, Policy
from relay_billing.domain.account_type import AccountType
from relay_billing.domain.ownership import Accounts
from relay_billing.schema import ACCOUNT_TABLES, billing_ledger, billing_sessions
from tasks.relay_cache import token_key
from tests.fixtures.brokers import free_port
from tests.fixtures.brokers import redis as redis_server
from tests.fixtures.databases import empty
from tests.fixtures.new_api import LOGS, NEW_API, USERS, new_api_rows
from tests.fixtures.relay_redis import SECRET
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT
from tests.standin.diary import Account, Diary
from tests.standin.own_billing import BALANCES, Key, OwnBilling
from tests.standin.people import WRITERS
from tests.standin.relay import Relay
from tests.standin.shell import Shell, bare, steps
from worker.doctor.writers import ABSOLUTE
from worker.shadow.verdicts import Verdict

PAGE = (ROOT / "docs" / "new-api.md").read_text()
STEPS = steps(PAGE)
WEALTH, RICH, ALLOWANCE = 4_000_000, 20_000_000, 50_000_000
"""The rich are trusted, and nothing is held of them."""
KEYS = (
    Key(1, 1),
    Key(2, 2, unlimited=True),
    Key(3, 3, "subscription_first", 1),
    Key(4, 4, "wallet_only"),
)
FLUSH_S = 0.4
"""new-api has 5 s; here the plan must end within a minute."""
QUICK = {"BILLING_METRICS_PORT": "0", "BILLING_HOLD_TTL": "4", "BILLING_SWEEP_INTERVAL": "2"}
"""Settings that the page leaves as they are: tests run many workers on one host, and don't wait for an hour."""
TYPED_S, SETTLED_S = 60.0, 60.0
POLICY = Policy(accounts=Accounts.NEW_API)


def people(engine: Engine) -> None:
    NEW_API.create_all(engine)
    LOGS.create(engine)
    rich = {2: RICH}
    limited = [{"id": key.token_id, "user_id": key.user_id, "unlimited_quota": key.unlimited} for key in KEYS]
    new_api_rows(
        engine,
        user=[{"id": key.user_id, "quota": rich.get(key.user_id, WEALTH)} for key in KEYS],
        token=[{**each, "remain_quota": RICH} for each in limited],
        plan=[{"id": 1, "quota_reset_period": "daily"}],
        subscription=[
            {"id": 1, "user_id": 3, "plan_id": 1, "amount_total": ALLOWANCE, "start_time": 1, "end_time": 4_000_000_000}
        ],
    )


def balances(engine: Engine) -> Counter[Account]:
    """Of every account; a subscription's is what was used of it, negative."""
    found: Counter[Account] = Counter()
    with engine.connect() as connection:
        for kind, (table, column, sign) in BALANCES.items():
            rows = connection.execute(select(table.c.id, column)).all()
            found.update({(kind, of): sign * amount for of, amount in rows})
    return found


@dataclass(slots=True)
class Plan:
    """One database, the relay on it, and an operator's shell."""

    engine: Engine
    relay: Relay
    shell: Shell
    folder: Path
    cache: redis.Redis
    own: dict[str, str]
    """What stands for what the page shows: addresses, ports, secrets."""
    exact: bool
    """Whether this is the database of which the page shows what is printed."""
    opening: Counter[Account] = field(default_factory=Counter)
    before_switch: Counter[Account] = field(default_factory=Counter)
    """What the relay had moved when no request had been billed through us."""
    ours: Counter[Account] = field(default_factory=Counter)
    """What we had moved when it was last proven."""
    theirs: object = None
    """The shape of the relay's tables."""

    @property
    def diary(self) -> Diary:
        return self.relay.diary

    def type(self, commands: str) -> str:
        for shown, own in self.own.items():
            commands = commands.replace(shown, own)
        said = self.shell.type(commands, TYPED_S)
        assert self.relay.problems == []
        return said

    def as_shown(self, said: str) -> str:
        for shown, own in self.own.items():
            said = said.replace(own, shown)
        return said

    def restart_relay(self) -> None:
        self.relay.stop()
        # Its log has whole seconds: no process begins in the second in which it ended.
        ended = int(time.time())
        until(lambda: time.time() >= ended + 1, 2, "the next second")
        if not self.ledger(adopted=False):
            self.before_switch = Counter(self.diary.moved)
        self.relay.start()
        self.bills_as_set()

    def bills_as_set(self) -> None:
        """Channels that are named are billed through us, the others by the relay, with a shadow where one is set."""
        settings = self.relay.settings
        billed, judged = len(self.diary.ended), len(self.sessions(shadow=True))
        self.serve()
        assert (len(self.diary.ended) > billed) is bool(settings["RELAY_CHANNELS"])
        beside = bool(settings["RELAY_SHADOW_DOOR"]) and settings["RELAY_CHANNELS"] != "*"
        assert (len(self.sessions(shadow=True)) > judged) is beside

    def serve(self, requests: int = 15) -> None:
        """Let some requests come."""
        before = self.diary.requests.total()
        until(lambda: self.diary.requests.total() >= before + requests, SETTLED_S, f"{requests} more requests")
        assert self.relay.problems == []

    def ledger(self, *, adopted: bool) -> Counter[Account]:
        """Sums of the ledger: of our own movements, or of those that explain what the relay has done."""
        c = billing_ledger.c
        outside = c.request_id.like("outside:%") & (c.kind == "adjust")
        where = (c.shadow.is_(False), outside if adopted else ~outside)
        summed = select(c.account_type, c.account_id, func.sum(c.amount)).where(*where)
        with self.engine.connect() as connection:
            rows = connection.execute(summed.group_by(c.account_type, c.account_id)).all()
        return Counter({(AccountType(kind), of): int(amount) for kind, of, amount in rows})

    def sessions(self, *, shadow: bool) -> dict[str, tuple[str, int | None]]:
        s = billing_sessions.c
        with self.engine.connect() as connection:
            rows = connection.execute(select(s.request_id, s.state, s.actual_quota).where(s.shadow.is_(shadow))).all()
        return {of: (state, actual) for of, state, actual in rows}

    def proven(self) -> None:
        """Every movement of ours is there, and every one of theirs, once; `reconcile` names theirs exactly."""
        with self.relay.stopped():
            until(self._ended, SETTLED_S, "every session ended as the relay said")
            self.ours = self.ledger(adopted=False)
            self.adds_up()
            found = list(Ledger(self.engine, POLICY).findings())
            assert [each for each in found if not each.outside] == []
            outside = Counter({(AccountType(each.what), int(each.id)): each.difference for each in found})
            # An account has nothing to prove before its first movement of ours.
            since = Counter({of: self.diary.moved[of] - self.before_switch[of] for of in self.ours})
            assert nonzero(sums(self.ledger(adopted=True), outside)) == nonzero(since)
            until(self._followed, SETTLED_S, "the relay's caches follow")

    def adds_up(self) -> None:
        """Balances are what they began with and what both have moved; usage is counted by the relay alone."""
        assert nonzero(balances(self.engine)) == nonzero(sums(self.opening, self.diary.moved, self.ours))
        with self.engine.connect() as connection:
            rows = connection.execute(select(USERS.c.id, USERS.c.used_quota, USERS.c.request_count)).all()
        counted = {of: (used, requests) for of, used, requests in rows}
        assert counted == {of: (self.diary.charged[of], self.diary.requests[of]) for of in counted}

    def _ended(self) -> bool:
        found = self.sessions(shadow=False)
        lost = {of: found.pop(of)[0] for of in self.diary.lost}
        return set(lost.values()) <= {"expired"} and found == {
            of: ("refunded", None) if actual is None else ("settled", actual) for of, actual in self.diary.ended.items()
        }

    def _followed(self) -> bool:
        """Caches have every movement of the database's, but for what the relay itself writes past them."""
        expected = sums(self.opening, self.diary.cached, self.ours)
        found = {(AccountType.WALLET, key.user_id): self.cache.hget(f"user:{key.user_id}", "Quota") for key in KEYS}
        for key in KEYS:
            named = token_key(key.secret, SECRET)
            found[AccountType.TOKEN, key.token_id] = self.cache.hget(named, "RemainQuota")
        return {of: str(expected[of]) for of in found} == found


def sums(*parts: Counter[Account]) -> Counter[Account]:
    """Unlike Counter's own +, which drops what is not above 0."""
    found: Counter[Account] = Counter()
    for each in parts:
        found.update(each)
    return found


def nonzero(of: Counter[Account]) -> dict[Account, int]:
    return {account: amount for account, amount in of.items() if amount}


def shape(engine: Engine) -> object:
    """Of the relay's own tables: whatever is done to them shows here."""
    found = inspect(engine)
    return {
        name: (
            [str(sorted((key, str(value)) for key, value in column.items())) for column in found.get_columns(name)],
            sorted(str(sorted(index.items(), key=str)) for index in found.get_indexes(name)),
            str(found.get_table_options(name)) if engine.dialect.name == "mysql" else "",
        )
        for name in (*ACCOUNT_TABLES, "logs")
    }


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


@pytest.fixture(params=["postgresql", "mariadb"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plan]:
    url = empty(request.param, request)
    engine = create_engine(url, pool_size=8)
    people(engine)
    server = redis_server(tmp_path)
    server.start()
    cache = redis.Redis.from_url(server.url, decode_responses=True)
    outside = {key: value for key, value in os.environ.items() if not key.startswith("BILLING_")}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    shell = Shell(tmp_path, outside | QUICK | path)
    billing = OwnBilling(engine, cache, SECRET, Diary())
    billing.load_caches(KEYS)
    relay = Relay(engine, billing, KEYS, tmp_path / "relay.env", FLUSH_S)
    shadow_port, port = str(free_port()), str(free_port())
    own = {
        "postgresql://new_api@127.0.0.1/new_api": url,
        "redis://127.0.0.1:6379": server.url.removesuffix("/0"),
        "the-secret-of-your-relay": SECRET,
        "8090": shadow_port,
        "8091": port,
        "BILLING_SHADOW=true": f"BILLING_API_PORT={shadow_port} BILLING_SHADOW=true",
    }
    made = Plan(engine, relay, shell, tmp_path, cache, own, request.param == "postgresql")
    made.opening, made.theirs = balances(engine), shape(engine)
    relay.start()
    yield made
    relay.stop()
    shell.end()
    cache.close()
    server.stop()
    engine.dispose()


def set_up(plan: Plan, said: str) -> None:
    plan.serve(5)
    assert said == ""


def looked(plan: Plan, said: str) -> None:
    assert "0 red" in said
    for written_whole in ABSOLUTE:
        assert written_whole in said
    assert tables(plan.engine) == {*ACCOUNT_TABLES, "logs"}


def migrated(plan: Plan, said: str) -> None:
    assert "migrated from nothing to" in said
    made = tables(plan.engine) - {*ACCOUNT_TABLES, "logs"}
    assert {each for each in made if not each.startswith("billing_")} == set()
    assert shape(plan.engine) == plan.theirs


def started(plan: Plan, said: str) -> None:
    assert "ready" in said
    assert plan.sessions(shadow=False) == plan.sessions(shadow=True) == {}


def shadowed(plan: Plan, said: str) -> None:
    assert said == ""
    with plan.relay.stopped():
        assert plan.sessions(shadow=False) == {}
        plan.adds_up()


def reported(plan: Plan, said: str) -> None:
    counts = {verdict: re.search(rf"^ *{verdict.words} +([\d,]+) ", said, re.MULTILINE) for verdict in Verdict}
    requests = {verdict: int(found[1].replace(",", "")) for verdict, found in counts.items() if found is not None}
    assert requests.pop(Verdict.AGREED) >= 10
    # What is in hand while it is asked has not ended on both sides.
    assert {verdict for verdict, count in requests.items() if count} <= {Verdict.OPEN}, said
    assert (plan.folder / "shadow.png").read_bytes().startswith(b"\x89PNG")


def switched(plan: Plan, said: str) -> None:
    assert "sessions, " in said
    assert plan.diary.ended.keys() <= plan.sessions(shadow=False).keys()


def reconciled(plan: Plan, said: str) -> None:
    assert said.count("no drift") == 3
    plan.proven()


def rehearsed(plan: Plan, said: str) -> None:
    assert said == ""
    plan.proven()


def all_switched(plan: Plan, said: str) -> None:
    assert "no drift" in said
    plan.proven()
    plan.relay.die_with_a_hold()


def back(plan: Plan, said: str) -> None:
    assert "no drift" in said
    plan.proven()
    # Each of its writers has been at work beside us.
    assert set(plan.diary.written) == set(WRITERS)


def out(plan: Plan, said: str) -> None:
    assert "account tables are as they were" in said
    plan.serve()
    assert tables(plan.engine) == {*ACCOUNT_TABLES, "logs"}
    assert shape(plan.engine) == plan.theirs
    with plan.relay.stopped():
        plan.adds_up()


AFTER: dict[str, Callable[[Plan, str], None]] = {
    "0": set_up,
    "1": looked,
    "2": migrated,
    "3": started,
    "4": shadowed,
    "5": reported,
    "6": switched,
    "7": reconciled,
    "8": rehearsed,
    "9": all_switched,
    "10": back,
    "11": out,
}
"""What has to be so when the last command of a step was typed."""


@pytest.mark.timeout(300)
def test_the_plan_runs_to_its_end_beside_a_relay_that_goes_on_writing(plan: Plan) -> None:
    numbers = list(dict.fromkeys(step.section.partition(".")[0] for step in STEPS))
    assert numbers == list(AFTER)
    for number in numbers:
        said = ""
        for step in (each for each in STEPS if each.section.startswith(f"{number}.")):
            printed = plan.type(step.commands)
            if "relay.env" in step.commands:
                plan.restart_relay()
            print(f"$ {step.commands}{printed}")
            said += printed
            if plan.exact:
                lines = {bare(line) for line in plan.as_shown(printed).splitlines()}
                assert [line for line in step.shown if bare(line) not in lines] == [], printed
        AFTER[number](plan, said)
