"""clients/go against a real door with a real worker: its own tests, and a relay in Go while the door is killed."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay_billing import Ledger
from relay_billing.domain.api_keys import Scope
from tests.faults.proxy import Proxy
from tests.faults.relay import USERS
from tests.faults.site import SETTINGS, WEALTH
from tests.faults.verdict import judge, owed, promised
from tests.fixtures.accounts import given
from tests.fixtures.brokers import on
from tests.fixtures.doors import HttpDoor, start
from tests.fixtures.golang import CLIENT, RELAY, go
from tests.fixtures.waiting import until
from tests.fixtures.workers import CELERY, Site, environment

pytestmark = [on("redis"), pytest.mark.timeout(240)]

TIMEOUT_S = 40.0
MILLION, TRUST, MUCH = 1_000_000, 5_000_000, 10**9
WALLETS = {1: MILLION, 2: 50, 3: MUCH, 4: 0, 5: 1_000, 6: MILLION, 7: MILLION}
TOKENS = {1: MILLION, 2: 1_000, 3: 0, 4: MILLION, 5: 10, 6: MILLION, 7: MILLION}
"""Quota by user, and by his token: the accounts that clients/go/internal/doortest names."""
TRUSTED, SUBSCRIBED = 3, 4
FAULTS = ("kill", *("cut",) * 4) * 3
"""Kill: the door, which is started again. Cut: all connections between relay and door, which then takes young calls for
abandoned, and gives their holds back."""
CALLERS = 32
"""So many that a cut meets some hold under way. Of a client that repeats such a hold too soon, the charge is lost."""
SETTLES = 25
"""Settles between two of these, so that work was done after each."""
CLOSED_WITHIN_S = 60.0
"""The longest hold, the sweeps, and some patience."""


def start_door(site: Site, **settings: object) -> HttpDoor:
    """A door that is ready."""
    return start(site.engine, site.database_url, site.folder / "door", site.spawn, site.broker.url, **settings)


@pytest.mark.parametrize("module", [CLIENT, RELAY], ids=lambda path: path.name)
def test_the_go_code_is_formatted_and_vetted(module: Path, broker: object) -> None:
    assert go("gofmt", "-l", ".", cwd=module) == ""
    go("go", "vet", "./...", cwd=module)


def test_the_clients_own_tests_pass_against_a_real_door(site: Site) -> None:
    hour = 3_600
    given(
        site.engine,
        user=[{"id": of, "quota": quota} for of, quota in WALLETS.items()],
        token=[
            {"id": of, "user_id": of, "remain_quota": quota, "unlimited_quota": of == TRUSTED}
            for of, quota in TOKENS.items()
        ],
        plan=[{"id": 1, "title": "Monthly"}],
        subscription=[
            {
                "id": 1,
                "user_id": SUBSCRIBED,
                "plan_id": 1,
                "amount_total": 1_000,
                "start_time": int(time.time()) - hour,
                "end_time": int(time.time()) + hour,
            }
        ],
    )
    site.worker()
    door = start_door(site, trust_quota=TRUST)
    env = {
        "BILLING_TEST_DOOR": f"http://127.0.0.1:{door.port}",
        "BILLING_TEST_KEY": door.make_key("all"),
        "BILLING_TEST_READ_KEY": door.make_key("reader", Scope.READ),
    }
    said = go("go", "test", "-race", "-count=1", "-v", "./...", cwd=CLIENT, env=env)
    assert "--- SKIP" not in said
    assert len(re.findall(r"^--- PASS: TestDoor", said, re.MULTILINE)) >= 9, said
    assert Ledger(site.engine).reconcile() == []


@pytest.fixture
def proxied() -> Iterator[Callable[[int], Proxy]]:
    """Proxies in front of ports; closed with the test."""
    made: list[Proxy] = []

    def make(port: int) -> Proxy:
        made.append(Proxy(port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


def counted(count: Callable[[], int], more: int, what: str, door: HttpDoor) -> None:
    """Wait until there are so many more."""
    goal = count() + more

    def reached() -> bool:
        assert door.process.popen.poll() is None, door.process.output
        return count() >= goal

    until(reached, TIMEOUT_S, f"{more} more {what}")


def test_a_go_relay_loses_and_doubles_nothing_while_its_door_is_killed_and_cut_off(
    site: Site, tmp_path: Path, proxied: Callable[[int], Proxy]
) -> None:
    binary, diary = tmp_path / "gorelay", tmp_path / "go.diary"
    go("go", "build", "-race", "-o", str(binary), ".", cwd=RELAY)
    rows = range(1, USERS + 1)
    given(
        site.engine,
        user=[{"id": of, "quota": WEALTH} for of in rows],
        token=[{"id": of, "user_id": of, "remain_quota": WEALTH} for of in rows],
    )
    settings = {**SETTINGS, "trust_quota": 0}
    site.worker("worker", 2, **settings)
    site.spawn((*CELERY, "beat"), environment(site.database_url, site.broker.url, tmp_path / "beat", **settings))
    door = start_door(site, **settings)
    proxy = proxied(door.port)
    relay = site.spawn((str(binary), f"http://127.0.0.1:{proxy.port}", str(diary), "1", str(CALLERS)), dict(os.environ))
    until(diary.exists, TIMEOUT_S, "a diary")
    for fault in FAULTS:
        counted(lambda: promised([diary]), SETTLES, "settles that are safe", door)
        if fault == "cut":
            proxy.cut()
        else:
            door.process.end()
            door = start_door(site, api_port=door.port, **settings)
    counted(lambda: promised([diary]), SETTLES, "settles that are safe", door)
    relay.popen.send_signal(signal.SIGTERM)
    assert relay.popen.wait(TIMEOUT_S) == 0, relay.output
    assert "DATA RACE" not in relay.output
    until(lambda: owed(site.engine, [diary]) == 0, CLOSED_WITHIN_S, "every session ended")
    verdict = judge(site.engine, [diary], WEALTH)
    assert verdict.lines == []
    assert (verdict.lost, verdict.doubled, verdict.given_up) == (0, 0, 0)
    assert verdict.settles >= (len(FAULTS) + 1) * SETTLES
