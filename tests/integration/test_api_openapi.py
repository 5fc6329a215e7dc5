"""The door answers as its description says, which is valid, and says all that there is."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from relay_billing import Ledger, Policy
from tests.fixtures.accounts import given
from tests.fixtures.databases import empty
from tests.fixtures.doors import WEALTH, HttpDoor, migrated, start
from tests.fixtures.schemathesis_hooks import USERS
from tests.fixtures.waiting import until
from tests.fixtures.workers import ROOT, Spawn

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
]
EXAMPLES = 40
LONGEST_S = 100
SEED = 20_261_128


@pytest.fixture
def door(request: pytest.FixtureRequest, tmp_path: Path, spawn: Spawn) -> Iterator[HttpDoor]:
    """A door on PostgreSQL that has a key, and rich users."""
    url = empty("postgresql", request)
    engine = migrated(url)
    others = range(2, USERS + 1)
    given(
        engine,
        user=[{"id": each, "quota": WEALTH} for each in others],
        token=[{"id": each, "user_id": each, "remain_quota": WEALTH, "unlimited_quota": True} for each in others],
    )
    door = start(engine, url, tmp_path, spawn)
    door.key = door.make_key("schemathesis")
    yield door
    engine.dispose()


def test_the_description_is_valid(door: HttpDoor) -> None:
    document: dict[str, Any] = door.ask("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


@pytest.mark.parametrize(
    ("batches", "checks"), [(False, [*CHECKS, "negative_data_rejection"]), (True, CHECKS)], ids=["single", "batches"]
)
def test_the_door_answers_as_it_is_described(door: HttpDoor, batches: bool, checks: list[str], tmp_path: Path) -> None:
    # What is wrong with an item of a batch is a problem in its place, and the whole is 200.
    until(lambda: door.ask("GET", "/v1/users/1", headers={"Authorization": ""}).status == 401, 10, "closed")
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"http://127.0.0.1:{door.port}/openapi.json",
        f"--checks={','.join(checks)}",
        f"--max-examples={EXAMPLES}",
        f"--seed={SEED}",
        "--phases=examples,coverage,fuzzing",
        "--warnings=off",
        "--include-path-regex=batch" if batches else "--exclude-path-regex=batch",
        f"--header=Authorization: Bearer {door.key}",
    ]
    env = {"SCHEMATHESIS_HOOKS": "tests.fixtures.schemathesis_hooks", "PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr
    assert "No issues found" in done.stdout or "passed" in done.stdout, done.stdout
    # Whatever was asked, every balance is right.
    assert Ledger(door.engine, Policy(trust_quota=0)).reconcile() == []


def test_the_calls_of_the_page_are_answered_as_it_says(door: HttpDoor) -> None:
    page = (ROOT / "docs" / "http.md").read_text()
    calls = page[page.index("## Every call, with curl") : page.index("## Problems")]
    typed = "\n".join(re.findall(r"^```sh\n(.*?)^```", calls, re.MULTILINE | re.DOTALL))
    own = typed.replace("http://127.0.0.1:8090", f"http://127.0.0.1:{door.port}").replace("rb_…", str(door.key))
    done = subprocess.run(("bash", "-eu"), input=own, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    statuses = [int(each) for each in re.findall(r"^HTTP/1.1 (\d+)", done.stdout, re.MULTILINE)]
    assert statuses == [201, 201, 200, 200, 202, 202, 202, *[200] * 9], done.stdout
    assert '"needs_refund":true' in done.stdout
