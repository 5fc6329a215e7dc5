"""Flower, beside a real worker on a real broker: who may see it, and what it shows."""

import html
import re
import subprocess
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pytest
from flower.urls import handlers
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.fixtures.brokers import free_port
from tests.fixtures.browser import screenshot
from tests.fixtures.flower import PASSWORD, SECRETS, TOKEN_KEY, USER, Watched
from tests.fixtures.waiting import until
from tests.fixtures.wire import Foreign
from tests.fixtures.workers import CELERY, ROOT, environment

TIMEOUT_S = 60.0
OPEN = {"/healthcheck", "/login", "/logout", "/static/x"}
"""Pages without a secret or a use: whether it lives, and the pages of a login that is not configured."""
REFUSED: list[tuple[dict[str, str], tuple[str, ...], str]] = [
    ({}, (), "is not set"),
    ({}, ("--address=0.0.0.0",), "is not set"),
    ({}, ("--address=127.0.0.1",), "is not set"),
    ({"BILLING_FLOWER_BASIC_AUTH": " , "}, (), "is not set"),
    ({"BILLING_FLOWER_BASIC_AUTH": "secret"}, (), "entry 1 of 1"),
    ({"BILLING_FLOWER_BASIC_AUTH": "good:secret,operator:"}, (), "entry 2 of 2"),
    ({"BILLING_FLOWER_BASIC_AUTH": ":secret"}, (), "entry 1 of 1"),
    ({"BILLING_FLOWER_BASIC_AUTH": "operator:secret-ä"}, (), "entry 1 of 1"),
    ({"FLOWER_BASIC_AUTH": "secret"}, (), "entry 1 of 1"),
    ({}, ("--basic-auth=secret",), "entry 1 of 1"),
    ({"BILLING_FLOWER_BASIC_AUTH": "operator:secret"}, ("--address=192.0.2.1",), "can't listen at 192.0.2.1:5555"),
]


@pytest.mark.parametrize(("given", "arguments", "why"), REFUSED)
def test_it_does_not_start_without_a_password(
    given: dict[str, str], arguments: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    env = environment("sqlite://", f"filesystem://{tmp_path}", tmp_path)
    env = {key: value for key, value in env.items() if not key.startswith("FLOWER_")} | given
    command = (*CELERY, "flower", *arguments)
    done = subprocess.run(command, env=env, cwd=ROOT, timeout=60, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith("relay-billing: ")]
    assert (done.returncode, len(said)) == (2, 1), done
    assert why in said[0]
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stdout + done.stderr


def _addresses() -> Iterable[str]:
    for handler in handlers:
        pattern = handler.regex.pattern if hasattr(handler, "regex") else handler[0]
        if pattern != ".*":
            yield re.sub(r"\(.*\)", "x", pattern).removesuffix("$").removesuffix("/?")


def test_every_page_asks_for_the_password(watched: Watched) -> None:
    for address in set(_addresses()) - OPEN:
        for method in ("GET", "POST"):
            for password in (None, "guessed"):
                status, text = watched.fetch(address, password=password, method=method)
                # 405: that page has no such method, whoever asks.
                assert status in (401, 405), (method, address, status, text)
    assert watched.fetch("/metrics")[0] == 200
    assert watched.fetch("/healthcheck", password=None) == (200, "OK")
    assert watched.fetch("/api/task/send-task/billing.sweep", method="POST")[0] == 403


def test_it_counts_the_queue_and_shows_tasks_short_and_no_secret(watched: Watched) -> None:
    assert watched.waiting() == 0
    watched.hold_and_settle(0, 3)
    until(lambda: watched.waiting() == 3, TIMEOUT_S, "three messages counted")
    assert re.search(r"<td>billing</td>\s*<td[^>]*>\s*3\s*</td>", watched.fetch("/broker")[1])
    jobs = [{"request_id": f"f{number}", "actual_quota": 5, "key": TOKEN_KEY} for number in range(500)]
    url = watched.site.database_url
    Foreign("billing.settle", {"jobs": jobs}).post(watched.site.broker)
    Foreign("billing.settle", {"jobs": jobs[:1], "key": TOKEN_KEY, "url": url}).post(watched.site.broker)
    until(lambda: watched.waiting() == 5, TIMEOUT_S, "five messages counted")
    port = free_port()
    watched.site.worker("seen", unknown_session_retries=1, metrics_port=port)
    watched.client.settle("nobody", 7)

    def told() -> set[object]:
        return {each["kwargs"] for each in watched.tasks().values() if each["state"] == "SUCCESS"}

    mine = {f"1 job, first r{number}, 60 quota" for number in range(3)}
    others = {"500 jobs, first f0, 2500 quota", "1 job, first f0, 5 quota", "1 job, first nobody, 7 quota"}
    until(lambda: told() >= mine | others, TIMEOUT_S, "all tasks seen to succeed, described by their jobs")
    assert watched.waiting() == 0
    _without_secrets(watched)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        scraped = answer.read().decode()
    assert "billing_jobs_total" in scraped
    assert not [secret for secret in SECRETS if secret in scraped]


def _without_secrets(watched: Watched) -> None:
    worker = next(iter(_workers(watched)))
    pages = [
        *("/", "/workers?json=1", "/tasks", "/broker", "/metrics", "/logout", "/nowhere", "/api/queues/length"),
        *("/api/tasks", "/api/task/types", "/api/workers?refresh=1", f"/api/workers?workername={quote(worker)}"),
        f"/worker/{quote(worker)}",
    ]
    for task in watched.tasks():
        pages += [f"/task/{task}", f"/api/task/info/{task}"]
    for page in pages:
        status, text = watched.fetch(page)
        assert status in (200, 404), (page, status, text)
        found = [secret for secret in SECRETS if secret in html.unescape(text)]
        assert not found, (page, found)
    assert "billing.settle" in watched.fetch(f"/worker/{quote(worker)}")[1]
    assert not [secret for secret in SECRETS if secret in watched.process.output]


def _workers(watched: Watched) -> list[str]:
    found = re.findall(r"\"(seen@[^\"]+)\"", watched.fetch("/api/workers?refresh=1")[1])
    assert found
    return found


@pytest.mark.parametrize("watched", ["redis"], indirect=True)
def test_an_operator_sees_the_workers_and_their_tasks_in_a_browser(watched: Watched, chromium: Chrome) -> None:
    watched.site.worker("seen")
    watched.hold_and_settle(0, 12)
    base = f"127.0.0.1:{watched.port}"
    chromium.get(f"http://{USER}:guessed@{base}/workers")
    status = "return performance.getEntriesByType('navigation')[0].responseStatus"
    assert chromium.execute_script(status) == 401
    assert "seen@" not in chromium.page_source
    chromium.get(f"http://{USER}:{PASSWORD}@{base}/workers")

    def shows(*texts: str) -> bool:
        body = chromium.find_element(By.TAG_NAME, "body").text
        return all(text in body for text in texts)

    def page(path: str, *texts: str) -> None:
        def there() -> bool:
            chromium.get(f"http://{base}{path}")
            return shows(*texts)

        until(there, TIMEOUT_S, f"{path} shows {texts}")

    page("/workers", "seen@", "Online")
    screenshot(chromium, "flower-workers")
    chromium.get(f"http://{base}/tasks")
    until(lambda: shows("billing.settle", "SUCCESS"), TIMEOUT_S, "settles that succeeded")
    screenshot(chromium, "flower-tasks")
    links = chromium.find_elements(By.CSS_SELECTOR, "a[href*='/task/']")
    links[0].click()
    until(lambda: shows("1 job, first r", "60 quota"), TIMEOUT_S, "one task, its arguments short")
    screenshot(chromium, "flower-task")
    page("/broker", "billing")
    screenshot(chromium, "flower-broker")
    worker = next(iter(_workers(watched)))
    chromium.get(f"http://{base}/worker/{quote(worker)}")
    until(lambda: shows(worker), TIMEOUT_S, "the worker's own page")
    screenshot(chromium, "flower-worker")
