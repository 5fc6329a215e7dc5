"""A relay's calls to the HTTP door, as one in any language makes them."""

import http.client
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT_S = 20.0
CREATED, ACCEPTED, FORBIDDEN = 201, 202, 403


@dataclass(frozen=True, slots=True)
class Door:
    """One door, and the relay's key."""

    url: str
    key: str

    def hold(self, **fields: object) -> bool:
        """Hold; False: it can't be paid. Raises RuntimeError for any other answer."""
        status, said = self._post("/v1/sessions", fields)
        if status not in (CREATED, FORBIDDEN):
            raise RuntimeError(f"a hold was answered {status}: {said}")
        return status == CREATED

    def end(self, request_id: str, actual: int | None) -> None:
        """Settle, or refund where `actual` is None."""
        name, body = ("refund", {}) if actual is None else ("settle", {"actual_quota": actual})
        status, said = self._post(f"/v1/sessions/{request_id}/{name}", body)
        if status != ACCEPTED:
            raise RuntimeError(f"the {name} of {request_id} was answered {status}: {said}")

    def _post(self, path: str, body: object) -> tuple[int, str]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()
