"""What a message of the queue holds: parsed, checked, and summed up for monitors (semantics §9)."""

from collections.abc import Mapping, Sequence

from relay_billing.domain import checks
from relay_billing.domain.errors import InvalidRequest
from relay_billing.domain.jobs import SETTLE_TASK, Job, RefundJob, SettleJob


def parse(task: str, item: object) -> Job:
    """Make a job of one item of a message. Raises InvalidRequest that names the field."""
    if not isinstance(item, Mapping):
        raise InvalidRequest("jobs", f"each must be an object, got {type(item).__name__}")
    fields = {str(key): value for key, value in item.items()}
    request_id = checks.request_id(fields.pop("request_id", None))
    reason = checks.reason(fields.pop("reason", None))
    if task == SETTLE_TASK:
        actual = checks.quota("actual_quota", fields.pop("actual_quota", None))
        checks.no_unknown(fields, task)
        return SettleJob(request_id, actual, reason)
    checks.no_unknown(fields, task)
    return RefundJob(request_id, reason)


def check_message(jobs: object) -> Sequence[object]:
    """The items of a message's `jobs`: a list of 1 to 500. Raises InvalidRequest."""
    if not isinstance(jobs, list):
        raise InvalidRequest("jobs", f"must be a list, got {type(jobs).__name__}")
    checks.batch("jobs", len(jobs))
    return jobs


def summary(jobs: object) -> str:
    """What monitors may show of a message's `jobs`: how many, the first one's id, the total quota of settles.

    Enough to find them, however many there are; anything that is not a job's id or amount is left out.
    """
    items = [each for each in jobs if isinstance(each, Mapping)] if isinstance(jobs, list) else []
    if not items:
        return "no jobs"
    try:
        first = f", first {checks.request_id(items[0].get('request_id'))}"
    except InvalidRequest:
        first = ""
    amounts = [each["actual_quota"] for each in items if type(each.get("actual_quota")) is int]
    total = f", {sum(amounts)} quota" if amounts else ""
    return f"{len(items)} job{'s' if len(items) > 1 else ''}{first}{total}"
