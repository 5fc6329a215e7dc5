"""No password is shown, wherever it stands; everything else stays as it was."""

import json
import subprocess
import sys

import pytest

from config.masking import masked, masked_value, secrets_of
from tests.fixtures.workers import ROOT

CASES = [
    ("postgresql://billing:geheim@db/billing", "postgresql://billing:***@db/billing"),
    ("redis://:geheim@redis:6379/0", "redis://:***@redis:6379/0"),
    ("can't reach amqps://u:ge@heim@rabbit//: refused", "can't reach amqps://u:***@rabbit//: refused"),
    (
        "postgresql://db/x?user=u&password=geheim&sslmode=require",
        "postgresql://db/x?user=u&password=***&sslmode=require",
    ),
    ("host=db password=geheim dbname=x", "host=db password=*** dbname=x"),
    ("{'password': 'geheim', 'port': 1}", "{'password': '***', 'port': 1}"),
    ('{"PGPASSWORD": "geheim"}', '{"PGPASSWORD": "***"}'),
    ("FLOWER_BASIC_AUTH=ada:geheim", "FLOWER_BASIC_AUTH=***"),
    ("--basic-auth=ada:geheim", "--basic-auth=***"),
    (f"Authorization: Bearer rb_{'aZ9_-' * 8}xyz", "Authorization: Bearer ***"),
    (f"b'rb_{'x' * 43}'", "b'***'"),
]
HARMLESS = [
    "postgresql://billing@db/billing",
    "http://127.0.0.1:5555/tasks",
    "password authentication failed for user 'billing'",
    "Task billing.settle[5f0c] succeeded in 0.01 s",
    "mail ada@example.org at 12:30",
    "request rb_1 of kerb_side",
]


@pytest.mark.parametrize(("text", "shown"), CASES)
def test_a_password_is_masked_wherever_it_stands(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_what_holds_no_password_stays_as_it_was(text: str) -> None:
    assert masked(text) == text


def test_the_passwords_of_the_settings_are_masked_as_written_and_as_meant() -> None:
    secrets = secrets_of(["postgresql://u:long%2Fsecret@db/x", "redis://:abc@redis", "sqlite:///x.db"])
    assert secrets == {"long%2Fsecret", "long/secret"}
    assert masked("it was long/secret, or long%2Fsecret", secrets) == "it was ***, or ***"


def test_what_a_log_line_holds_is_masked_to_its_last_part() -> None:
    line = {"urls": ["redis://:geheim@r"], "n": 1, "none": None, "error": ValueError("amqp://u:geheim@r")}
    assert masked_value(line) == {
        "urls": ["redis://:***@r"],
        "n": 1,
        "none": None,
        "error": "ValueError('amqp://u:***@r')",
    }


def test_no_line_of_the_log_holds_a_password_those_of_exceptions_neither() -> None:
    code = """
import logging, structlog
from config import logs
logs.configure("json", {"planted-secret"})
try:
    raise OSError("redis://:geheim@r is away, planted-secret")
except OSError as error:
    logging.getLogger("celery").exception("lost %s", "amqp://u:geheim@r//")
    structlog.get_logger("tasks").exception("lost", error=error, url="postgresql://u:geheim@db/x")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["lost amqp://u:***@r//", "lost"]
    assert all("OSError: redis://:***@r is away, ***" in line["exception"] for line in lines)
    assert "geheim" not in done.stderr
    assert "planted-secret" not in done.stderr
