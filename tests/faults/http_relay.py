"""The same relay through a door: `python -m tests.faults.http_relay DOOR_URL DIARY SEED`."""

import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Unpack
from urllib.parse import quote

import httpx

from relay_billing import BillingError, BillingUnavailable
from relay_billing.domain.requests import HoldFields
from tests.faults.relay import play

TIMEOUT_S = 6.0
"""Of one call: longer than a door waits for its database, shorter than a black connection lasts."""
AWAY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE)


class Refused(BillingError):
    """The door said no, or what no door says."""


class Door:
    """Billing over HTTP, one call a request; it repeats nothing by itself."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)

    def pre_consume(self, **fields: Unpack[HoldFields]) -> object:
        """Hold."""
        return self._post("/v1/sessions", fields, HTTPStatus.CREATED, HTTPStatus.OK)

    def settle(self, request_id: str, actual_quota: int) -> None:
        """Charge."""
        self._post(
            f"/v1/sessions/{quote(request_id, safe='')}/settle", {"actual_quota": actual_quota}, HTTPStatus.ACCEPTED
        )

    def refund(self, request_id: str) -> None:
        """Give back."""
        self._post(f"/v1/sessions/{quote(request_id, safe='')}/refund", {}, HTTPStatus.ACCEPTED)

    def _post(self, path: str, body: Mapping[str, object], *expected: HTTPStatus) -> httpx.Response:
        try:
            answer = self._http.post(path, json=body)
        except httpx.TransportError as error:
            raise BillingUnavailable(f"no answer: {type(error).__name__}: {error}") from error
        if answer.status_code in AWAY:
            raise BillingUnavailable(answer.text)
        if answer.status_code not in expected:
            raise Refused(f"{answer.status_code}: {answer.text}")
        return answer


def main() -> None:
    """Relay until SIGTERM."""
    door_url, diary, seed = sys.argv[1:]
    play(Door(door_url), Path(diary), seed)


if __name__ == "__main__":
    main()
