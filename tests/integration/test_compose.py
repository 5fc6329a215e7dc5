"""The compose file and the image, held against the code; each service's command, run for real."""

import base64
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.draining import DRAIN_S, FINISH_S
from config.celery import options
from config.settings import Settings
from relay_billing.batching.rules import CLOSE_TIMEOUT_S
from tests.fixtures.brokers import Broker, answers, free_port, redis
from tests.fixtures.databases import empty
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT, Spawn, environment

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "worker", "webhooks", "api", "beat", "flower")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
PASSWORD = "operator:only-for-this-test"
BIN = Path(sys.executable).parent


def test_every_service_is_there_and_all_but_the_migration_are_watched() -> None:
    assert set(SERVICES) == {"postgres", "redis", *OURS}
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"migrate"}


def test_services_wait_for_what_they_need() -> None:
    ready = {
        "migrate": {"condition": "service_completed_successfully"},
        "redis": {"condition": "service_healthy"},
    }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert all(SERVICES[name]["depends_on"] == ready for name in OURS if name != "migrate")


def test_every_setting_is_one_that_the_code_reads() -> None:
    known = {f"BILLING_{name.upper()}" for name in Settings.model_fields}
    for name in OURS:
        given = {key for key in SERVICES[name]["environment"] if key.startswith("BILLING_")}
        assert given <= known
        assert {"BILLING_DATABASE_URL", "BILLING_BROKER_URL"} <= given


def test_no_secret_is_written_down_and_none_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "FLOWER_BASIC_AUTH"):
        uses = re.findall(r"\$\{" + name + r"[^}]*\}", text)
        assert uses
        assert all(":?" in use for use in uses), uses
    assert not re.search(r"(?i)(password|secret|auth)\w*:\s+[^$\s]", text)
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text), "a password in a URL"


def test_workers_can_be_scaled_and_beat_is_one() -> None:
    assert "container_name" not in SERVICES["worker"]
    assert "ports" not in SERVICES["worker"]
    beats = [name for name in OURS if "beat" in SERVICES[name]["command"]]
    assert beats == ["beat"]
    soft = options(Settings(broker_url="redis://redis"))["worker_soft_shutdown_timeout"]
    assert isinstance(soft, float)
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) >= 2 * soft
    assert all(SERVICES[name]["restart"] == "unless-stopped" for name in SERVICES if name != "migrate")


def test_redis_keeps_jobs_and_doors_and_flower_are_for_this_host_alone() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "noeviction" in command
    assert all(port.startswith("127.0.0.1:") for name in ("flower", "api") for port in SERVICES[name]["ports"])
    (port,) = SERVICES["api"]["ports"]
    assert port.split(":")[2] == str(Settings.model_fields["api_port"].default)
    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) >= DRAIN_S + FINISH_S + CLOSE_TIMEOUT_S


def test_the_image_holds_what_the_commands_need_and_runs_as_nobody_special() -> None:
    for package in ("relay_billing", "config", "tasks", "worker", "api"):
        assert re.search(rf"^COPY {package} {package}$", DOCKERFILE, re.MULTILINE)
    assert "--constraint constraints.txt '.[api,postgresql,worker]'" in DOCKERFILE
    user = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert user == ["billing"]
    assert f"useradd --system --uid 10001 --no-create-home {user[0]}" in DOCKERFILE
    assert f"install --directory --owner {user[0]} {Settings.model_fields['var_dir'].default}\n" in DOCKERFILE
    kept = (ROOT / ".dockerignore").read_text()
    copied = [each for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE) for each in line.split()[:-1]]
    assert all(f"!{each}" in kept for each in copied)


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Redis, started with the compose file's own options."""
    folder = tmp_path_factory.mktemp("redis")
    broker = redis(folder)
    assert broker.command is not None
    options = SERVICES["redis"]["command"][1:]
    broker.command = [broker.command[0], "--port", str(broker.port), "--bind", "127.0.0.1", "--dir", str(folder)]
    broker.command += options
    broker.start()
    yield broker
    broker.stop()


def command_of(name: str, *more: str) -> tuple[str, ...]:
    """The service's command, out of this environment's programs."""
    program, *rest = SERVICES[name]["command"]
    return (str(BIN / program), *rest, *more)


def healthy(name: str, env: dict[str, str]) -> bool:
    """Whether the service's own health check passes."""
    _, program, *rest = SERVICES[name]["healthcheck"]["test"]
    return (
        subprocess.run((str(BIN / program), *rest), cwd=ROOT, env=env, capture_output=True, check=False).returncode == 0
    )


def fetched(url: str, password: str | None = None) -> int:
    """The status that Flower answers with."""
    request = urllib.request.Request(url)
    if password is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(password.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_each_services_command_runs_and_is_healthy(
    own_redis: Broker, request: pytest.FixtureRequest, tmp_path: Path, spawn: Spawn
) -> None:
    url = empty("postgresql", request)
    env = environment(url, own_redis.url, tmp_path / "var", log_format="json")
    migrated = subprocess.run(command_of("migrate"), cwd=ROOT, env=env, capture_output=True, timeout=60, check=False)
    assert migrated.returncode == 0, migrated.stderr
    assert not healthy("worker", env)
    port = free_port()
    spawn(command_of("worker"), env)
    spawn(command_of("beat"), env)
    made = (str(BIN / "python"), "-m", "worker", "api-keys", "create", "gateway", "--scope", "read")
    key = (
        subprocess.run(made, cwd=ROOT, env=env, capture_output=True, timeout=60, check=True).stdout.split()[0].decode()
    )
    door = free_port()
    spawn(command_of("api"), env | {"BILLING_API_ADDRESS": "0.0.0.0", "BILLING_API_PORT": str(door)})
    webhooks = env | {"BILLING_VAR_DIR": str(tmp_path / "webhooks")}
    spawn(command_of("webhooks"), webhooks)
    flower = spawn(command_of("flower", f"--port={port}"), env | {"BILLING_FLOWER_BASIC_AUTH": PASSWORD})
    for name in ("worker", "beat"):
        until(lambda name=name: healthy(name, env), 60, f"{name} healthy")  # type: ignore[misc]
    until(lambda: healthy("webhooks", webhooks), 60, "webhooks healthy")

    until(lambda: answers(port), 60, f"Flower listening: {flower.output}")
    until(lambda: answers(door), 60, "the HTTP door listening")
    live = SERVICES["api"]["healthcheck"]["test"][3].replace("8090", str(door))
    assert subprocess.run((str(BIN / "python"), "-c", live), check=False).returncode == 0
    metrics = urllib.request.Request(f"http://127.0.0.1:{door}/metrics", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(metrics, timeout=10) as answer:
        assert b"billing_api_in_hand" in answer.read()
    for page in ("workers", "metrics"):
        assert fetched(f"http://127.0.0.1:{port}/{page}") == 401
        assert fetched(f"http://127.0.0.1:{port}/{page}", "operator:guessed") == 401
        assert fetched(f"http://127.0.0.1:{port}/{page}", PASSWORD) == 200
    assert fetched(f"http://127.0.0.1:{port}/healthcheck") == 200
