"""The door's description in OpenAPI 3.1: made from the types that bodies are decoded into, and from the routes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from api.answered import EndedFields, ProblemFields
from api.answers import encode
from api.describing import DESCRIBED, FIELDS
from api.end_fields import EndFields
from api.fields import RefundFields, ReserveFields, SettleFields
from api.problems import Problem
from api.routes import Route
from relay_billing.domain.checks import MAX_BATCH
from relay_billing.domain.requests import HoldFields
from relay_billing.domain.sessions import BillingSession
from relay_billing.flows.token_balance import TokenBalance
from relay_billing.flows.user_balance import UserBalance

Schema = dict[str, Any]
TYPES = {
    "Hold": HoldFields,
    "Reserve": ReserveFields,
    "Settle": SettleFields,
    "Refund": RefundFields,
    "End": EndFields,
    "Ended": EndedFields,
    "Session": BillingSession,
    "UserBalance": UserBalance,
    "TokenBalance": TokenBalance,
    "Problem": ProblemFields,
}
"""What the types are called in the description."""
SENT = frozenset({"Hold", "Reserve", "Settle", "Refund", "End"})
"""Those that callers send: an unknown field in them is an error."""


def description(routes: Iterable[Route], version: str) -> bytes:
    """The document, as JSON."""
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "relay-billing",
                "version": version,
                "summary": "Prepaid quota for LLM relays: hold before the call, charge after it, exactly once.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": _schemas(),
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "rb_…"}},
            },
        }
    )


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401, JSON
    """The schema with references to our names."""
    if isinstance(value, dict):
        return {
            key: f"#/components/schemas/{names.get(each, each)}" if key == "$ref" else _renamed(each, names)
            for key, each in value.items()
        }
    return [_renamed(each, names) for each in value] if isinstance(value, list) else value


def _schemas() -> dict[str, Schema]:
    _, found = msgspec.json.schema_components(TYPES.values(), ref_template="{name}")
    names = {kind.__name__: name for name, kind in TYPES.items()}
    made: dict[str, Schema] = {names.get(name, name): _renamed(schema, names) for name, schema in found.items()}
    for name, schema in made.items():
        schema.pop("title", None)
        if "properties" in schema:
            # Limits are of what comes in: a wallet that goes out may be below 0.
            schema["properties"] = {
                field: _known(field, limits=name in SENT) | its for field, its in schema["properties"].items()
            }
        if name in SENT:
            schema["additionalProperties"] = False
    made["Session"]["properties"]["needs_refund"] = {"type": "boolean", **FIELDS["needs_refund"]}
    made["Session"]["required"] = list(made["Session"]["properties"])
    # The header Idempotency-Key may carry it.
    made["Hold"]["required"].remove("request_id")
    made["Holds"] = _several({"allOf": [_ref("Hold"), {"required": ["request_id"]}]})
    made["Ends"] = _several(_ref("End"))
    made["HeldEach"] = _several({"anyOf": [_ref("Session"), _ref("Problem")]})
    made["EndedEach"] = _several({"anyOf": [_ref("Ended"), _ref("Problem")]})
    return made


def _known(field: str, *, limits: bool) -> Schema:
    known = FIELDS.get(field, {})
    return known if limits else {key: value for key, value in known.items() if key == "description"}


def _several(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_BATCH}


@dataclass(frozen=True, slots=True)
class _Content:
    kind: str
    schema: Schema

    @property
    def shown(self) -> Schema:
        return {self.kind: {"schema": self.schema}}


PROBLEM = _Content("application/problem+json", {"$ref": "#/components/schemas/Problem"})


def _answer(said: str) -> _Content:
    if said.startswith("text/"):
        return _Content(said, {"type": "string"})
    return _Content("application/json", {"type": "object"} if said == "object" else _ref(said))


def _operation(route: Route) -> Schema:
    said = DESCRIBED[route.path]
    made: Schema = {"summary": said.summary, "operationId": said.name, "responses": {}}
    if said.text:
        made["description"] = said.text
    _, brace, rest = route.path.partition("{")
    parameters = list(said.parameters)
    if brace:
        name = rest.partition("}")[0]
        kind = "string" if name == "request_id" else "integer"
        parameters.insert(0, {"name": name, "in": "path", "required": True, "schema": {"type": kind, **FIELDS[name]}})
    if parameters:
        made["parameters"] = parameters
    if said.body is not None:
        content = _Content("application/json", _ref(said.body)).shown
        made["requestBody"] = {"required": said.body != "Refund", "content": content}
    contents = {status: _answer(each) for status, each in said.answers.items()} | dict.fromkeys(said.problems, PROBLEM)
    for status, each in contents.items():
        made["responses"][str(status)] = {"description": Problem.phrase(status), "content": each.shown}
    if route.scope is not None:
        made["security"] = [{"key": []}]
        made["x-scope"] = route.scope.value
    return made
