"""Whether a worker is ready, by what was last seen."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from relay_billing import Ledger
from relay_billing.flows import heartbeats
from relay_billing.schema import metadata
from relay_billing.store.drivers import engine_of
from tests.fixtures.waiting import until
from worker.monitoring.gauges import Own, SnapshotCollector
from worker.monitoring.sweeps import LEAST_PATIENCE_S


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[str]:
    """New tables, as a worker finds them."""
    url = f"sqlite:///{tmp_path / 'billing.db'}"
    engine = engine_of(url)
    metadata.create_all(engine)
    yield url
    engine.dispose()


def test_a_worker_is_not_ready_while_sweeps_are_lost(database_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database_url, broker_url=f"filesystem://{tmp_path / 'broker'}")
    consuming = True
    own = Own(lambda: consuming, lambda: 1, began_at=time.time() - LEAST_PATIENCE_S - 5)
    collector = SnapshotCollector(settings, own)
    # The first answer knows nothing of the database: it waits for nobody.
    assert collector.unready() is None
    until(lambda: "none ever came through" in str(collector.unready()), 10, "sweeps missed")
    Ledger(engine_of(database_url)).run(heartbeats.remember, heartbeats.SWEEP)
    seen = list(SnapshotCollector(settings, own).collect())
    assert "billing_last_sweep_timestamp_seconds" in {metric.name for metric in seen}
    again = SnapshotCollector(settings, own)
    again.collect()
    assert again.unready() is None
    consuming = False
    assert again.unready() == "not consuming"
