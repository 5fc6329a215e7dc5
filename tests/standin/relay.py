"""The stand-in itself: answers requests on two channels, and bills each as its own settings say."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import Engine, insert

from tests.fixtures.new_api import LOGS
from tests.standin.diary import Diary
from tests.standin.door import Door
from tests.standin.own_billing import Key, OwnBilling
from tests.standin.people import People

CHANNELS = (3, 7)
THREADS = 3
MODEL = "gpt-4o"
CONSUME = 2
LEAST, MOST = 1_000, 20_000
"""Quota of an estimate."""
REFUNDED = 0.15
"""The part of requests whose upstream fails."""
PAUSE_S = (0.1, 0.4)
"""Between two requests of a thread: least and most."""
JOIN_S = 60.0


class Relay:
    """Requests come from several threads, and people work beside them, until it is stopped.

    Its settings are a file: RELAY_KEY and, of our doors, RELAY_SHADOW_DOOR and RELAY_DOOR; RELAY_CHANNELS: which are
    billed through us, separated by commas, `*` for all. They are read when it starts. A channel that was changed over
    is tried once with every key before anybody else comes.
    """

    def __init__(self, engine: Engine, billing: OwnBilling, keys: tuple[Key, ...], file: Path, flush_s: float) -> None:
        """`flush_s`: seconds between two writes of what waits in memory; new-api has 5."""
        self.diary: Diary = billing.diary
        self.problems: list[Exception] = []
        self._engine, self._billing, self._keys, self._file, self._flush_s = engine, billing, keys, file, flush_s
        self._people = People(billing, keys, thinks_s=flush_s / 2)
        self.settings: dict[str, str] = {}
        self._numbers, self._log_ids = count(1), count(1)
        self._dice = random.Random(7)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Read the settings and begin."""
        before = self._billed
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.settings = dict(line.split("=", 1) for line in lines if line)
        for channel in sorted(self._billed - before):
            for key in self._keys:
                self._serve(key, channel)
        self._stop.clear()
        work: list[Callable[[], None]] = [self._answer] * THREADS + [self._write, self._work]
        self._threads = [threading.Thread(target=self._guarded, args=(each,)) for each in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is in hand, write what waits, and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_S)
            assert not thread.is_alive()
        self._billing.flush()

    def restart(self) -> None:
        """As after a change of its settings."""
        self.stop()
        self.start()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Nobody writes but us; what it did is written."""
        self.stop()
        yield
        self.start()

    def die_with_a_hold(self) -> None:
        """A request that is held through us, and that nobody ends."""
        request_id = self._request_id()
        assert self._door().hold(**self._fields(request_id, self._keys[0], LEAST))
        self.diary.lost.add(request_id)

    @property
    def _billed(self) -> set[int]:
        named = self.settings.get("RELAY_CHANNELS", "")
        return set(CHANNELS) if named == "*" else {int(each) for each in named.split(",") if each}

    def _door(self) -> Door:
        return Door(self.settings["RELAY_DOOR"], self.settings["RELAY_KEY"])

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set():
                work()
        except Exception as error:  # noqa: BLE001, the test shows it
            self.problems.append(error)
            self._stop.set()

    def _answer(self) -> None:
        self._serve(self._dice.choice(self._keys), self._dice.choice(CHANNELS))
        self._stop.wait(self._dice.uniform(*PAUSE_S))

    def _write(self) -> None:
        self._stop.wait(self._flush_s)
        self._billing.flush()

    def _work(self) -> None:
        self._people.act(self._stop)

    def _request_id(self) -> str:
        return f"req-{next(self._numbers):06}"

    def _fields(self, request_id: str, key: Key, quota: int) -> dict[str, object]:
        account = {"user_id": key.user_id, "token_id": key.token_id, "preference": key.preference}
        return {"request_id": request_id, "quota": quota, "model_name": MODEL, **account}

    def _serve(self, key: Key, channel: int) -> None:
        """One request: held, answered by an upstream, ended."""
        request_id, quota = self._request_id(), self._dice.randint(LEAST, MOST)
        failed = self._dice.random() < REFUNDED
        actual = None if failed else int(quota * self._dice.uniform(0.3, 1.5))
        bill = self._bill_through_us if channel in self._billed else self._bill_itself
        if bill(request_id, key, quota, actual) and actual is not None:
            self._billing.count(key.user_id, actual)
            self._log(request_id, key, actual)

    def _upstream(self) -> None:
        threading.Event().wait(self._dice.uniform(0.005, 0.05))

    def _bill_through_us(self, request_id: str, key: Key, quota: int, actual: int | None) -> bool:
        door = self._door()
        if not door.hold(**self._fields(request_id, key, quota)):
            return False
        self._upstream()
        door.end(request_id, actual)
        self.diary.end(request_id, actual)
        return True

    def _bill_itself(self, request_id: str, key: Key, quota: int, actual: int | None) -> bool:
        """With a shadow beside it where one is set: asked before its own hold, and at its own end."""
        url = self.settings.get("RELAY_SHADOW_DOOR")
        shadow = Door(url, self.settings["RELAY_KEY"]) if url else None
        judged = shadow is not None and shadow.hold(**self._fields(request_id, key, quota))
        if not self._billing.hold(key, quota):
            if shadow is not None and judged:
                shadow.end(request_id, None)
            return False
        self._upstream()
        self._billing.change(key, quota - (actual or 0))
        if shadow is not None and judged:
            shadow.end(request_id, actual)
        return True

    def _log(self, request_id: str, key: Key, quota: int) -> None:
        row = {"user_id": key.user_id, "token_id": key.token_id, "model_name": MODEL, "request_id": request_id}
        more = {"id": next(self._log_ids), "type": CONSUME, "quota": quota, "created_at": int(time.time())}
        with self._engine.begin() as connection:
            connection.execute(insert(LOGS).values(**row, **more))
