"""A pool that ends waits for the job that a child was sent and has not confirmed."""

import os
import subprocess
import sys

from tests.fixtures.workers import ROOT

# A process of its own: it forks, and has an event loop.
ENDS = """
import os, signal, time
from celery import Celery
from celery.concurrency.prefork import TaskPool
from kombu.asynchronous import Hub, set_event_loop
from worker.patches.pool import unanswered, wait_for

def work(number):
    return number

def spin(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        next(loop)

app = Celery("test", broker="memory://")
app.set_current()
hub = Hub()
set_event_loop(hub)
pool = TaskPool(1, app=app, threads=False, initargs=(app, "worker@test"))
pool.start()
pool.register_with_event_loop(hub)
hub.timer.call_repeatedly(0.05, lambda: None)
loop = hub.loop
(child,) = pool.info["processes"]
try:
    spin(lambda: pool._pool._fileno_to_inq)
    os.kill(child, signal.SIGSTOP)
    done = []
    job = pool.apply_async(work, (1,), callback=done.append)
    spin(lambda: job._write_to is not None)
    assert unanswered(pool) == [], "the pool does not end yet"
    pool.close()
    sent = unanswered(pool)
    assert sent == [job]
    pool.flush()
    assert not pool._pool._cache, "Celery remembers it: no patch is needed"
    wait_for(sent)
    os.kill(child, signal.SIGCONT)
    spin(lambda: done)
    assert done == [1]
    assert not pool._pool._cache
finally:
    os.kill(child, signal.SIGKILL)
"""


def test_what_a_child_was_sent_is_remembered_until_it_is_answered() -> None:
    command = [sys.executable, "-c", ENDS]
    done = subprocess.run(
        command, env=dict(os.environ), cwd=ROOT, timeout=60, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
