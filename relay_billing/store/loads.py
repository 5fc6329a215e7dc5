"""Generators that load and lock rows. They define the lock order: sessions, users, subscriptions, tokens.

A generator yields lists of commands and is sent a list of replies; `drivers` runs it on a connection, sync or async.
"""

from collections.abc import Collection

from relay_billing.domain.plans import Plan
from relay_billing.domain.requests import PreConsume
from relay_billing.domain.worksheet import Worksheet
from relay_billing.store import statements
from relay_billing.store.account_statements import AccountStatements
from relay_billing.store.commands import Command, Load
from relay_billing.store.rows import NOTHING, fill_accounts, fill_sessions


def _load_accounts(
    sheet: Worksheet, accounts: AccountStatements, user_ids: Collection[int], token_ids: Collection[int], *, lock: bool
) -> list[Command]:
    """Lock, or read, all accounts that a pre-consume of these users may charge, and read the subscriptions' plans."""
    ids = sorted(user_ids)
    active = {"ids": ids, "now": sheet.now}
    users, subscriptions, tokens = accounts.locking if lock else accounts.reading
    commands = [
        Command.of_constant(users, ids=ids),
        Command.of_constant(subscriptions, **active),
        Command(accounts.plans_of_active, active, constant=True, follows=True),
        Command.of_constant(tokens, ids=sorted(token_ids)),
    ]
    if sheet.policy.trust_max_inflight:
        commands.append(Command.of_constant(statements.TRUSTED_OPEN, ids=ids, shadow=sheet.policy.shadow))
    return commands


def load_for_holds(
    sheet: Worksheet, accounts: AccountStatements, requests: Collection[PreConsume], *, lock: bool = True
) -> Load:
    """Find the sessions that exist already (replays), and lock the accounts, in one list of commands.

    `lock` False: for a decision that nothing follows; it waits for no lock. In shadow nothing is locked either: nothing
    will be moved, and the relay's own updates must not wait for us (semantics §13).
    """
    lock = lock and not sheet.policy.shadow
    user_ids = {each.user_id for each in requests}
    token_ids = {each.token_id for each in requests if each.token_id is not None}
    request_ids = sorted({each.request_id for each in requests})
    known, wallets, subscriptions, plans, keys, *counts = yield [
        Command.of_constant(statements.KNOWN_SESSIONS, ids=request_ids),
        *_load_accounts(sheet, accounts, user_ids, token_ids, lock=lock),
    ]
    if known.rows:
        (found,) = yield [Command.of_constant(statements.READ_SESSIONS, ids=request_ids)]
        fill_sessions(sheet, found)
    fill_accounts(sheet, wallets, subscriptions, keys)
    sheet.plans.update({row["id"]: Plan(**row) for row in plans.rows})
    for reply in counts:
        sheet.trusted_open.update({row["user_id"]: row["open"] for row in reply.rows})


def load_wallets(sheet: Worksheet, accounts: AccountStatements, user_ids: Collection[int]) -> Load:
    """Lock wallets alone."""
    (wallets,) = yield [Command.of_constant(accounts.lock_users, ids=sorted(user_ids))]
    fill_accounts(sheet, wallets, NOTHING, NOTHING)


def load_for_jobs(sheet: Worksheet, accounts: AccountStatements, request_ids: Collection[str]) -> Load:
    """Lock sessions, then the accounts that paid for them, in one list: a session's accounts never change."""
    ids = sorted(request_ids)
    if sheet.policy.shadow:
        yield from _load_beside(sheet, accounts, ids)
        return
    locks = (statements.LOCK_SESSIONS, *accounts.locking_of)
    found, *loaded = yield [Command.of_constant(each, ids=ids) for each in locks]
    fill_sessions(sheet, found)
    fill_accounts(sheet, *loaded)


def _load_beside(sheet: Worksheet, accounts: AccountStatements, ids: list[str]) -> Load:
    """Lock sessions, then only the accounts of those that are no shadow; the others' are read (semantics §13).

    Where all are, no statement locks an account: a role that may only read them is enough.
    """
    (found,) = yield [Command.of_constant(statements.LOCK_SESSIONS, ids=ids)]
    fill_sessions(sheet, found)
    known = [sheet.sessions[each] for each in ids if each in sheet.sessions]
    # An account of both kinds is filled last as it stands under its lock.
    for shadow, statements_of in ((True, accounts.reading_of), (False, accounts.locking_of)):
        some = [each.request_id for each in known if each.shadow is shadow]
        if some:
            fill_accounts(sheet, *(yield [Command.of_constant(each, ids=some) for each in statements_of]))
