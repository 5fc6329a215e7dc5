"""State files: who reads them sees each worker once, whatever is being written."""

import os
from pathlib import Path

import pytest

from worker.process.stage import Stage
from worker.process.state import OwnState, WorkerState


def test_a_file_that_is_being_written_is_not_taken_for_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, seen = OwnState(str(tmp_path)), []
    state.say(Stage.CONNECTING)
    replace = Path.replace

    def look_first(beside: Path, target: Path) -> Path:
        seen.append([(each.pid, each.stage) for each in WorkerState.all_here(str(tmp_path))])
        return replace(beside, target)

    monkeypatch.setattr(Path, "replace", look_first)
    state.say(Stage.CONSUMING)
    assert seen == [[(os.getpid(), Stage.CONNECTING)]]
    assert [each.stage for each in WorkerState.all_here(str(tmp_path))] == [Stage.CONSUMING]
