"""What settings mean that depend on others."""

import pytest

from config.settings import Settings, SettingsError, load
from relay_billing import InvalidRequest, Policy
from relay_billing.domain.ownership import Accounts, Calendar


@pytest.mark.parametrize(
    ("accounts", "usage", "counts"),
    [
        ("own", None, True),
        ("own", "", True),
        ("own", "false", False),
        ("new-api", None, False),
        ("new-api", "", False),
        ("new-api", "true", True),
        ("new-api", "false", False),
    ],
)
def test_usage_is_counted_in_our_own_accounts_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch, accounts: str, usage: str | None, counts: bool
) -> None:
    monkeypatch.setenv("BILLING_ACCOUNTS", accounts)
    if usage is not None:
        monkeypatch.setenv("BILLING_RECORD_USAGE", usage)
    policy = Settings(_env_file=None).policy
    assert policy.accounts is Accounts(accounts)
    assert policy.counts_usage is counts


def test_a_word_that_is_none_of_the_choices_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="accounts: must be one of own, new-api"):
        Policy(accounts="theirs")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="subscription_calendar: must be one of own, external"):
        Policy(subscription_calendar="theirs")  # type: ignore[arg-type]
    assert Policy(subscription_calendar="external").subscription_calendar is Calendar.EXTERNAL  # type: ignore[arg-type]
    monkeypatch.setenv("BILLING_ACCOUNTS", "theirs")
    with pytest.raises(SettingsError, match="BILLING_ACCOUNTS"):
        load()
