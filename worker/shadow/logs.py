"""The relay's own log of charges: its table `logs`, in the ledger's database or in another."""

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Engine, Executable, case, column, func, inspect, select, table

from config.refusal import Refusal
from relay_billing.store.drivers import streamed

TABLE = "logs"
CONSUME, REFUND = 2, 6
"""Values of `logs.type` that move quota of a request: a charge, and what is given back of it."""
NEEDED = ("type", "quota", "request_id", "created_at")
_LOGS = table(TABLE, *(column(name) for name in (*NEEDED, "user_id")))
_C = _LOGS.c


class Charge(NamedTuple):
    """One row that moved quota."""

    request_id: str
    """Empty: the row names none."""
    user_id: int | None
    at_ms: int
    """Unix milliseconds: the end of the second that the row names, so that it is not before what led to it."""
    quota: int
    """Negative: given back."""


def has_log(engine: Engine, name: str) -> bool:
    """Whether the database has the table. Raises Refusal where a column is missing; `name`: of the database."""
    found = inspect(engine)
    if not found.has_table(TABLE):
        return False
    missing = sorted(set(NEEDED) - {each["name"] for each in found.get_columns(TABLE)})
    if missing:
        raise Refusal(
            f"the table {TABLE} of {name} has no column {', '.join(missing)}: requests can't be compared without; "
            "an older relay's log has no request ids"
        )
    return True


def _charges(engine: Engine, since_s: int) -> Executable:
    has_user = any(each["name"] == "user_id" for each in inspect(engine).get_columns(TABLE))
    quota = func.coalesce(_C["quota"], 0)
    return (
        select(
            func.coalesce(_C["request_id"], ""),
            _C["user_id"] if has_user else func.nullif(1, 1),
            _C["created_at"],
            case((_C["type"] == REFUND, -quota), else_=quota),
        )
        .select_from(_LOGS)
        .where(_C["created_at"] >= since_s, _C["type"].in_((CONSUME, REFUND)))
    )


def charges(engine: Engine, since_s: int) -> Iterator[Charge]:
    """Every row since then (Unix seconds) that moved quota of a request, in no order. Raises SQLAlchemy's errors."""
    for request_id, user_id, at, quota in streamed(engine, [_charges(engine, since_s)]):
        yield Charge(str(request_id), None if user_id is None else int(user_id), int(at) * 1000 + 999, int(quota))
