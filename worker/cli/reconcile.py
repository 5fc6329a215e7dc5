"""`reconcile`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from config.refusal import Refusal
from relay_billing import Ledger
from relay_billing.domain.ownership import Accounts
from relay_billing.flows.reconcile import Drift
from worker.cli.ledger import open_ledger
from worker.cli.times import moment_ms
from worker.words import amount, drift_line

MOST_ADOPTED = 100_000
"""Accounts that one run adopts; the next run takes more."""


def reconcile(
    since: Annotated[str | None, typer.Option(help="Only what moved since 30m, 12h, 7d ago or a date.")] = None,
    user: Annotated[int | None, typer.Option(help="Only this user's accounts and sessions.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each drift, one a line.")] = False,
    adopt: Annotated[bool, typer.Option(help="Explain in the ledger what others have changed; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --adopt: do not ask.")] = False,
) -> None:
    """Prove that accounts, sessions and ledger agree. Prints each drift, and exits 1 if any; repairs nothing.

    With BILLING_ACCOUNTS=new-api, what others have changed in an account is no drift: it is printed as `outside`.
    --adopt writes one ledger row for each such account, so that it adds up again, and changes no balance.

    Example: python -m worker reconcile --since 1d
    """
    drifts, outside = 0, list[Drift]()
    with open_ledger() as ledger:
        if adopt and ledger.policy.accounts is Accounts.OWN:
            raise Refusal("--adopt is for BILLING_ACCOUNTS=new-api: here every difference is a drift")
        for found in ledger.findings(moment_ms("--since", since), user):
            if not found.outside:
                drifts += 1
            elif len(outside) < MOST_ADOPTED:
                outside.append(found)
            print(json.dumps({**asdict(found), "difference": found.difference}) if as_json else drift_line(found))
        if not as_json:
            _summary(drifts, outside)
        if adopt and outside:
            _adopt(ledger, outside, sure=yes, as_json=as_json)
    raise typer.Exit(1 if drifts else 0)


def _summary(drifts: int, outside: list[Drift]) -> None:
    if not drifts and outside:
        print("no drift: every session adds up; others have changed what is named `outside`")
    elif not drifts:
        print("no drift: every account and every session adds up")


def _adopt(ledger: Ledger, outside: list[Drift], *, sure: bool, as_json: bool) -> None:
    accounts = "account" if len(outside) == 1 else "accounts"
    if not sure and not typer.confirm(f"Write one ledger row for each of {len(outside):,} {accounts}?", err=True):
        raise Refusal("nothing was written")
    explained = ledger.adopt(outside)
    if as_json:
        return
    total = sum(each.difference for each in explained)
    accounts = "account" if len(explained) == 1 else "accounts"
    print(f"adopted: {len(explained):,} {accounts}, {amount(total)} in all; no balance was changed")
