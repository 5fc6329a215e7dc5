"""The base of all tasks: the process's ledger, and how outages of its database are waited out."""

import os
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog
from celery import Task
from celery.exceptions import Reject

from config.settings import Settings, load
from relay_billing.domain.errors import BillingUnavailable
from relay_billing.ledger import Ledger
from relay_billing.store.drivers import engine_of
from relay_billing.store.waits import Waits
from tasks import metrics

log = structlog.get_logger("tasks")
P = ParamSpec("P")
T = TypeVar("T")

OUTAGE_PATIENCE_S = 8.0
"""Seconds for which a task retries while the database is away; then it gives its message back."""
WAITS = Waits(call_s=6.0)
"""Where the URL says nothing else. The last try begins within `OUTAGE_PATIENCE_S` and ends before the shortest
visibility time-out, 15 s."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0


class OpenLedger:
    """The process's ledger and its settings. Both are made once in each process, at first use, so after the fork."""

    def __init__(self) -> None:
        self._ledger: Ledger | None = None
        self._settings: Settings | None = None
        self._pid = 0

    def open(self) -> tuple[Ledger, Settings]:
        """Ledger and settings; made now if this process has none."""
        if self._ledger is None or self._settings is None or self._pid != os.getpid():
            self._settings = load()
            engine = engine_of(self._settings.database_url, WAITS)
            metrics.watch_pool(engine)
            self._ledger = Ledger(engine, self._settings.policy)
            self._pid = os.getpid()
        return self._ledger, self._settings


class LedgerTask(Task):
    """Base of all tasks: messages are acknowledged late, and given back when the worker is lost; no results."""

    acks_late = True
    reject_on_worker_lost = True
    acks_on_failure_or_timeout = False
    ignore_result = True
    opened = OpenLedger()

    @property
    def ledger(self) -> Ledger:
        """The process's ledger."""
        return self.opened.open()[0]

    @property
    def settings(self) -> Settings:
        """The settings that the ledger was made with."""
        return self.opened.open()[1]

    def patiently(self, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call the ledger, and retry while the database is away, for `OUTAGE_PATIENCE_S`.

        Raises Reject, which gives the message back, when the outage lasts longer.
        """
        deadline, pause = time.monotonic() + OUTAGE_PATIENCE_S, FIRST_PAUSE_S
        while True:
            try:
                return call(*args, **options)
            except BillingUnavailable as error:
                if time.monotonic() > deadline:
                    log.error("the database is away, the message goes back", task=self.name, error=str(error))
                    raise Reject(str(error), requeue=True) from error
                log.warning("the database is away", task=self.name, error=str(error))
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, LONGEST_PAUSE_S)
