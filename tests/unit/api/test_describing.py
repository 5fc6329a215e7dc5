"""The description of the door says what the types and the checks of the domain say."""

import json
from importlib.metadata import version
from typing import Any, get_type_hints
from unittest.mock import create_autospec

import pytest

from api.app import routes
from api.describing import DESCRIBED, FIELDS
from api.openapi import SENT, TYPES, description
from api.probes import Probes
from api.schemas import HOLD
from relay_billing.aio import AsyncBillingClient
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.jobs import SettleJob
from relay_billing.domain.requests import HoldFields, PreConsume
from relay_billing.domain.sessions import BillingSession
from tests.fixtures.workers import ROOT

ROUTES = routes(create_autospec(AsyncBillingClient), create_autospec(Probes))
DOCUMENT: dict[str, Any] = json.loads(description(ROUTES, version("relay-billing")))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
GOOD: dict[str, Any] = {"request_id": "r", "user_id": 1, "token_id": 1, "quota": 1}


def test_every_route_is_described_and_nothing_else() -> None:
    assert {route.path for route in ROUTES} == set(DESCRIBED) == set(DOCUMENT["paths"])
    names = [said.name for said in DESCRIBED.values()]
    assert len(names) == len(set(names))
    for route in ROUTES:
        said = DOCUMENT["paths"][route.path][route.method.lower()]
        assert ("security" in said) == (route.scope is not None)


def test_holds_and_sessions_have_the_fields_of_their_types() -> None:
    assert set(SCHEMAS["Hold"]["properties"]) == set(get_type_hints(HoldFields))
    assert set(SCHEMAS["Session"]["properties"]) == {*BillingSession.__dataclass_fields__, "needs_refund"}
    assert set(TYPES) <= set(SCHEMAS)
    for name in SENT:
        assert SCHEMAS[name]["additionalProperties"] is False
        assert {field for field in SCHEMAS[name]["properties"] if field not in FIELDS} == set()


def test_the_description_in_the_documents_is_the_one_that_is_served() -> None:
    kept = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert kept == DOCUMENT, "save it again: make openapi"


def _holds(**more: object) -> bool:
    try:
        PreConsume.checked({**GOOD, **more})  # type: ignore[typeddict-item]
    except InvalidRequest as error:
        return error.field not in more
    return True


@pytest.mark.parametrize("field", ["user_id", "token_id", "quota", "hold_ttl"])
def test_the_limits_of_numbers_are_those_of_the_domain(field: str) -> None:
    low, high = FIELDS[field]["minimum"], FIELDS[field]["maximum"]
    assert [_holds(**{field: each}) for each in (low - 1, low, high, high + 1)] == [False, True, True, False]


@pytest.mark.parametrize("field", ["request_id", "model_name"])
def test_the_limits_of_texts_are_those_of_the_domain(field: str) -> None:
    low, high = FIELDS[field].get("minLength", 0), FIELDS[field]["maxLength"]
    assert [_holds(**{field: "x" * each}) for each in (low, high, high + 1)] == [True, True, False]
    assert low == 0 or not _holds(**{field: ""})


def test_the_limits_of_an_end_are_those_of_the_domain() -> None:
    longest, most = FIELDS["reason"]["maxLength"], FIELDS["actual_quota"]["maximum"]
    SettleJob("r", most, "x" * longest)
    for actual, reason in ((most + 1, ""), (-1, ""), (most, "x" * (longest + 1))):
        with pytest.raises(InvalidRequest):
            SettleJob("r", actual, reason)


def test_a_field_that_comes_twice_or_is_unknown_is_found_however_it_is_written() -> None:
    assert HOLD.read(b'{"quota":1,"model_name":"a:b:c"}') == {"quota": 1, "model_name": "a:b:c"}
    for body, field in (
        (b'{"quota":1,"quota":1}', "quota"),
        (b'{"quota" :1, "quota" :1}', "quota"),
        (b'{"quota":1,"qu\\u006fta":2}', "quota"),
        (b'{"":1}', ""),
        (b'{"a:b":1,"quota":1}', "a:b"),
        (b'{"a":' + b"1" * 5_000 + b"}", "a"),
        (b'{"quota":' + b"1" * 5_000 + b"}", "quota"),
        (b'{"a":[1,2.5,{"quota":1,"quota":2}]}', "a"),
    ):
        with pytest.raises(InvalidRequest) as found:
            HOLD.read(body)
        assert found.value.field == field


def test_however_deep_a_body_is_nested_it_is_refused() -> None:
    for depth in range(1, 1_500, 7):
        with pytest.raises(InvalidRequest):
            HOLD.read(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


if __name__ == "__main__":
    print(json.dumps(DOCUMENT, indent=2, ensure_ascii=False))
