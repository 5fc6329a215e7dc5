"""Workers answer what tells about them, and refuse what would change them."""

from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker.control import Panel
from celery.worker.pidbox import Pidbox

from worker.patches.commands import ANSWERED, restrict


def test_a_worker_answers_from_the_table_that_is_restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Panel, "data", dict(Panel.data))
    celerys = dict(Panel.data)
    assert set(celerys) > ANSWERED
    restrict()
    app = Celery("test", set_as_current=False, broker="memory://")
    consumer = SimpleNamespace(app=app, hostname="worker@here", controller=SimpleNamespace(use_eventloop=False))
    asked = Pidbox(consumer).node.handlers
    assert asked is Panel.data
    assert {name for name in asked if asked[name] is celerys[name]} == ANSWERED
    assert "refused" in asked["shutdown"](None)["error"]
    app.close()
