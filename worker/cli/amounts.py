"""Amounts as operators type them: quota, or dollars."""

import re

from config.refusal import Refusal
from relay_billing.domain.money import MAX_QUOTA, QUOTA_PER_UNIT

_QUOTA = re.compile(r"[0-9]{1,16}")
_DOLLARS = re.compile(r"(?:\$([0-9]{1,11})(?:\.([0-9]{1,6}))?)|(?:([0-9]{1,11})(?:\.([0-9]{1,6}))?(?:\$|usd))", re.I)
_MICRO = 1_000_000
_MICRO_PER_QUOTA = _MICRO // QUOTA_PER_UNIT


def quota_of(field: str, words: str, least: int = 0) -> int:
    """Quota of `250000`, `5usd`, `5.25usd`, `$5` or `5$`; a Refusal that names `field` for anything else."""
    given = words.strip().replace(" ", "")
    dollars = _DOLLARS.fullmatch(given)
    if dollars:
        whole, part = dollars[1] or dollars[3], dollars[2] or dollars[4] or ""
        micro = int(whole) * _MICRO + int(part.ljust(6, "0"))
        quota, rest = divmod(micro, _MICRO_PER_QUOTA)
        if rest:
            raise Refusal(f"{field}: {words!r} is no whole number of quota: one is $0.{_MICRO_PER_QUOTA:06d}")
    elif _QUOTA.fullmatch(given):
        quota = int(given)
    else:
        raise Refusal(f"{field}: must be quota like 250000, or dollars like 5usd or $5.25, got {words!r}")
    if not least <= quota <= MAX_QUOTA:
        raise Refusal(f"{field}: must be between {least} and {MAX_QUOTA} quota, got {quota}")
    return quota
