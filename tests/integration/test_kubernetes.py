"""The manifests, held against the code and against the compose file, whose commands are run for real."""

import re
import subprocess
import sys
from typing import Any
from unittest.mock import create_autospec

import pytest
import yaml

from api.app import routes
from api.draining import DRAIN_S, FINISH_S
from api.probes import Probes
from config.celery import options
from config.settings import Settings
from relay_billing.aio import AsyncBillingClient
from relay_billing.batching.rules import CLOSE_TIMEOUT_S
from relay_billing.domain.jobs import QUEUE
from tests.fixtures.workers import ROOT
from tests.integration.test_compose import DOCKERFILE, SERVICES

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = {"billing.yaml": 4, "api.yaml": 3, "scale-redis.yaml": 2, "scale-rabbitmq.yaml": 2}
VERSIONS = {"v1", "batch/v1", "apps/v1", "autoscaling/v2", "keda.sh/v1alpha1"}
SCALERS = [name for name in FILES if name.startswith("scale")]


def read(name: str) -> dict[str, dict[str, Any]]:
    """The documents of a file by kind and name."""
    found = yaml.safe_load_all((FOLDER / name).read_text())
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in found}


BILLING, API = read("billing.yaml"), read("api.yaml")
SETTINGS: dict[str, str] = BILLING["ConfigMap/billing"]["data"]
WORKLOADS = {
    "migrate": BILLING["Job/billing-migrate"],
    "worker": BILLING["Deployment/billing-worker"],
    "beat": BILLING["Deployment/billing-beat"],
    "api": API["Deployment/billing-api"],
}


def pod(role: str) -> dict[str, Any]:
    found: dict[str, Any] = WORKLOADS[role]["spec"]["template"]["spec"]
    return found


def container(role: str) -> dict[str, Any]:
    (found,) = pod(role)["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_documents_each_named_and_of_a_known_version(name: str) -> None:
    documents = read(name)
    assert len(documents) == FILES[name]
    assert {each["apiVersion"] for each in documents.values()} <= VERSIONS
    assert set(FILES) == {file.name for file in FOLDER.iterdir()}


@pytest.mark.parametrize("role", WORKLOADS)
def test_each_runs_the_command_that_compose_runs_under_the_images_user(role: str) -> None:
    assert container(role)["command"] == SERVICES[role]["command"]
    assert f"--uid {pod(role)['securityContext']['runAsUser']} " in DOCKERFILE
    assert container(role)["envFrom"] == [{"configMapRef": {"name": "billing"}}, {"secretRef": {"name": "billing"}}]


@pytest.mark.parametrize("role", ["worker", "beat", "api"])
def test_selectors_fit_their_pods(role: str) -> None:
    labels = WORKLOADS[role]["spec"]["template"]["metadata"]["labels"]
    assert WORKLOADS[role]["spec"]["selector"]["matchLabels"] == labels


def test_settings_are_ones_that_the_code_takes_and_none_is_a_secret() -> None:
    known = {f"BILLING_{name.upper()}": name for name in Settings.model_fields}
    assert set(SETTINGS) <= set(known)
    Settings.model_validate({known[name]: value for name, value in SETTINGS.items()})
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert "kind: Secret" not in text
        assert not re.search(r"://[^/\s]*:[^/\s]*@", text), "a password in a URL"


def test_only_what_the_root_is_read_only_for_is_written() -> None:
    for role in WORKLOADS:
        assert container(role)["securityContext"]["readOnlyRootFilesystem"]
        (mount,) = container(role)["volumeMounts"]
        assert SETTINGS["BILLING_VAR_DIR"].startswith(f"{mount['mountPath']}/")


def test_beat_is_one_also_while_it_is_replaced_and_workers_are_the_scalers() -> None:
    beat = WORKLOADS["beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})
    assert "replicas" not in WORKLOADS["worker"]["spec"]


def test_a_worker_has_time_to_finish_what_it_has_in_hand() -> None:
    soft = options(Settings(broker_url="redis://redis"))["worker_soft_shutdown_timeout"]
    assert isinstance(soft, float)
    assert pod("worker")["terminationGracePeriodSeconds"] >= 2 * soft


@pytest.mark.parametrize("role", ["worker", "beat"])
def test_an_outage_of_the_broker_restarts_nobody(role: str) -> None:
    assert container(role)["livenessProbe"]["exec"]["command"] == ["python", "-m", "worker", "health", role, "--live"]


def test_liveness_runs_a_command_that_there_is() -> None:
    command = container("worker")["livenessProbe"]["exec"]["command"]
    done = subprocess.run((sys.executable, *command[1:], "--help"), cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    # Another exit would be that of an unknown option; without a worker here, this one says "not alive".
    there = subprocess.run((sys.executable, *command[1:]), cwd=ROOT, capture_output=True, check=False)
    assert there.returncode in (0, 1), there.stderr


def test_readiness_asks_the_port_that_the_worker_opens() -> None:
    worker = container("worker")
    ports = {each["name"]: each["containerPort"] for each in worker["ports"]}
    assert ports[worker["readinessProbe"]["httpGet"]["port"]] == int(SETTINGS["BILLING_METRICS_PORT"])
    assert SETTINGS["BILLING_METRICS_ADDRESS"] == "0.0.0.0"
    path = worker["readinessProbe"]["httpGet"]["path"]
    assert f'"{path}"' in (ROOT / "worker" / "monitoring" / "exposition.py").read_text()


@pytest.mark.parametrize("name", SCALERS)
def test_workers_are_scaled_by_the_queue_and_never_to_none(name: str) -> None:
    documents = read(name)
    spec = documents["ScaledObject/billing-worker"]["spec"]
    assert spec["scaleTargetRef"]["name"] == WORKLOADS["worker"]["metadata"]["name"]
    assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    assert QUEUE in (trigger["metadata"].get("listName"), trigger["metadata"].get("queueName"))
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes text alone"
    assert f"TriggerAuthentication/{trigger['authenticationRef']['name']}" in documents


def test_doors_are_reached_by_their_service_watched_and_scaled_by_their_cpu() -> None:
    door, labels = container("api"), WORKLOADS["api"]["spec"]["selector"]["matchLabels"]
    env = {each["name"]: each["value"] for each in door["env"]}
    assert env["BILLING_API_ADDRESS"] == "0.0.0.0"
    (port,) = door["ports"]
    assert str(port["containerPort"]) == env["BILLING_API_PORT"]
    service = API["Service/billing-api"]["spec"]
    assert service["selector"] == labels
    assert {each["targetPort"] for each in service["ports"]} == {port["name"]}
    paths = {route.path for route in routes(create_autospec(AsyncBillingClient), create_autospec(Probes))}
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert door[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in paths
    scaler = API["HorizontalPodAutoscaler/billing-api"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == WORKLOADS["api"]["metadata"]["name"]
    assert 2 <= scaler["minReplicas"] <= scaler["maxReplicas"]
    assert "replicas" not in WORKLOADS["api"]["spec"]
    (metric,) = scaler["metrics"]
    assert (metric["resource"]["name"], "cpu" in door["resources"]["requests"]) == ("cpu", True)


def test_a_door_has_time_to_finish_and_callers_time_to_see_it() -> None:
    assert pod("api")["terminationGracePeriodSeconds"] >= DRAIN_S + FINISH_S + CLOSE_TIMEOUT_S
    probe = container("api")["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= DRAIN_S
