"""Alerts and dashboard ask for metrics that there are, and promtool finds nothing wrong with the rules."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry, Metric

from api.metrics import Metrics
from relay_billing.flows.overview import LastReconcile, Open, Overview
from relay_billing.metrics import meter_of
from tasks import metrics
from tests.fixtures.absent import absent
from tests.fixtures.workers import ROOT
from worker.monitoring.gauges import Own, families
from worker.monitoring.queues import QueueState
from worker.monitoring.snapshot import Snapshot

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "billing.json"
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
SOMETHING = Open(1, 1, 1)
EVERYTHING = Snapshot(
    Overview(1, SOMETHING, 1, SOMETHING, SOMETHING, LastReconcile(1, 1, 0, 0), 1),
    None,
    (QueueState("billing", 1, 1, 1),),
    None,
)
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
UNBOUNDED = {"user", "user_id", "token", "token_id", "request_id", "model", "model_name", "pid"}


def exported() -> Iterator[Metric]:
    """Every metric of worker, client and HTTP door."""
    registry = CollectorRegistry()
    meter_of(registry)
    assert Metrics(registry, lambda: 0)
    assert metrics.JOBS
    for source in (REGISTRY.collect(), registry.collect(), families(EVERYTHING, Own(lambda: True, lambda: 2))):
        yield from (each for each in source if each.name.startswith("billing_"))


NAMES = {f"{metric.name}{suffix}" for metric in exported() for suffix in SUFFIXES[metric.type]}


def asked(text: str) -> set[str]:
    return set(re.findall(r"\bbilling_\w+", text))


def test_every_metric_of_the_alerts_is_exported() -> None:
    wanted = asked(" ".join(rule["expr"] for rule in RULES))
    assert wanted
    assert wanted <= NAMES


def test_every_metric_of_the_dashboard_is_exported_and_none_is_missing_there() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {name for panel in panels for target in panel.get("targets", ()) for name in asked(target["expr"])}
    assert shown <= NAMES
    # A histogram is there by its buckets, a metric of the documentation by its family.
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAMES} == {
        re.sub(r"_bucket$", "", name) for name in shown
    }
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))


def test_the_documentation_lists_exactly_what_is_exported() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    listed = set(re.findall(r"^\| `(billing_\w+)`", page, re.MULTILINE))
    assert listed == {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAMES}
    assert set(re.findall(r"^\| `(Billing\w+)`", page, re.MULTILINE)) == {rule["alert"] for rule in RULES}


def test_no_label_has_values_without_bound() -> None:
    labels = {label for metric in exported() for sample in metric.samples for label in sample.labels}
    assert labels & UNBOUNDED == set()


def test_every_alert_says_what_to_do() -> None:
    for rule in RULES:
        assert re.fullmatch(r"docs/runbook\.md#[a-z-]+", rule["annotations"]["runbook_url"]), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(words: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        absent("rules of Prometheus: no promtool on the path (Debian's package `prometheus` has it)")
    done = subprocess.run((promtool, *words), cwd=DEPLOY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load((DEPLOY / "alerts.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tried for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in RULES}
