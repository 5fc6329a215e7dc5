"""A message of the filesystem broker appears whole or not at all."""

import json
import os
from pathlib import Path

import pytest
from kombu import Connection

from relay_billing.broker.options import broker_options


def test_nothing_of_a_message_is_in_its_queue_until_it_is_moved_there_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = broker_options(f"filesystem://{tmp_path}")
    messages = tmp_path / "messages"
    moved: list[str] = []

    def move(beside: str, into: str) -> None:
        # kombu's readers take what they find by this pattern.
        assert not list(messages.glob("*.work.msg"))
        assert json.loads(Path(beside).read_text())["properties"]["delivery_info"]["routing_key"] == "work"
        moved.append(into)
        os.rename(beside, into)

    monkeypatch.setattr(os, "replace", move)
    with Connection(
        transport=options["broker_transport"], transport_options=options["broker_transport_options"]
    ) as connection:
        queue = connection.SimpleQueue("work")
        queue.put({"what": "told"})
        assert [Path(each) for each in moved] == list(messages.glob("*.work.msg"))
        taken = queue.get(timeout=5)
        assert taken.payload == {"what": "told"}
        taken.ack()
        queue.close()
