"""Writes the changes of a worksheet: one statement per table, with deltas, never balances."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from operator import attrgetter

from relay_billing.domain.account_type import AccountType
from relay_billing.domain.sessions import BillingSession
from relay_billing.domain.webhooks import events_of
from relay_billing.domain.worksheet import Worksheet
from relay_billing.store import cache_deltas, dead_letters, statements, webhooks
from relay_billing.store.account_statements import AccountStatements
from relay_billing.store.commands import Command, Load, Rows
from relay_billing.store.dialects import Dialect
from relay_billing.store.last import Last
from relay_billing.store.statements import MUTABLE, OPENING_COLUMNS


def write_intents(dialect: Dialect, intents: Rows) -> Last:
    """Record intents on open sessions; the first intent of each session wins (semantics §9)."""
    written = dialect.many(statements.WRITE_INTENT, intents)
    # Locked in order first: the update of a set may lock its rows in any order, and so deadlock.
    ids = sorted(str(each["of"]) for each in intents)
    return Last([Command.of_constant(statements.LOCK_SESSION_KEYS, ids=ids), replace(written, touches=None)])


def write(sheet: Worksheet, dialect: Dialect, *, more: bool = False) -> Load:
    """Write all changes of the worksheet. Raises UpdateDataError if a locked row has changed all the same.

    `more`: the flow yields further commands afterwards; unset: this is the end of the transaction.
    """
    commands = [*_session_writes(sheet, dialect), *_account_writes(sheet, dialect)]
    if sheet.entries:
        rows = [
            {
                "request_id": entry.movement.request_id,
                "account_type": entry.movement.account_type.value,
                "account_id": entry.movement.account_id,
                "kind": entry.movement.kind.value,
                "step": entry.movement.step,
                "amount": entry.movement.amount,
                "balance_after": entry.balance_after,
                "created_at": entry.created_at,
                "note": entry.movement.note,
                "shadow": entry.shadow,
            }
            for entry in sheet.entries
        ]
        commands.append(dialect.many(statements.ADD_ENTRY, rows))
    if sheet.refusals:
        refused = [{**asdict(each), "created_at": sheet.now_ms} for each in sheet.refusals]
        commands.append(dialect.many(statements.ADD_REFUSAL, refused))
    if events := events_of(sheet):
        commands.append(webhooks.announced(dialect, events))
    if sheet.policy.cache_deltas:
        commands += cache_deltas.kept(dialect, sheet.deltas, sheet.now_ms)
    commands += dead_letters.kept(dialect, sheet.dead_letters, sheet.now_ms, announce=sheet.policy.announce)
    if not commands:
        return
    replies = yield commands if more else Last(commands)
    for command, reply in zip(commands, replies, strict=True):
        command.check(reply.count)


def _reader(names: Sequence[str]) -> Callable[[BillingSession], dict[str, object]]:
    """Makes a function that turns a session into a row, faster than a loop over its fields."""
    read = attrgetter(*names)

    def row_of(session: BillingSession) -> dict[str, object]:
        row = dict(zip(names, read(session), strict=True))
        row["state"] = session.state.value
        if session.intent is not None:
            row["intent"] = session.intent.value
        return row

    return row_of


_opening_row, _moved_row = _reader(OPENING_COLUMNS), _reader(MUTABLE)


def _session_writes(sheet: Worksheet, dialect: Dialect) -> list[Command]:
    commands = []
    changed = sorted(sheet.states_before)
    opened = [_opening_row(sheet.sessions[each]) for each in changed if sheet.states_before[each] is None]
    if opened:
        commands.append(dialect.many(statements.OPEN_SESSION, opened))
    moved = [
        {
            **{f"to_{name}": value for name, value in _moved_row(sheet.sessions[each]).items()},
            "of": each,
            "was": was.value,
        }
        for each in changed
        if (was := sheet.states_before[each]) is not None
    ]
    if moved:
        commands.append(dialect.many(statements.MOVE_SESSION, moved))
    return commands


def _account_writes(sheet: Worksheet, dialect: Dialect) -> list[Command]:
    by_type: dict[AccountType, dict[int, int]] = {each: {} for each in AccountType}
    for (account_type, account_id), delta in sheet.deltas.items():
        by_type[account_type][account_id] = delta
    commands = []
    wallet_deltas = by_type[AccountType.WALLET]
    touched = sorted({of for of, delta in wallet_deltas.items() if delta} | set(sheet.usage))
    if touched:
        rows = []
        for of in touched:
            used, requests = sheet.usage.get(of, (0, 0))
            rows.append({"of": of, "delta": wallet_deltas.get(of, 0), "used": used, "requests": requests})
        commands.append(dialect.many(dialect.accounts.move_wallet, rows))
    subscription_rows = _subscription_rows(sheet, dialect.accounts, by_type[AccountType.SUBSCRIPTION])
    if subscription_rows:
        commands.append(dialect.many(dialect.accounts.move_subscription, subscription_rows))
    stamp = {"at": sheet.now} if dialect.accounts.token_stamp else {}
    deltas = by_type[AccountType.TOKEN]
    token_rows = [{"of": of, "delta": delta, **stamp} for of, delta in sorted(deltas.items()) if delta]
    if token_rows:
        commands.append(dialect.many(dialect.accounts.move_token, token_rows))
    return commands


def _subscription_rows(
    sheet: Worksheet, accounts: AccountStatements, deltas: Mapping[int, int]
) -> list[dict[str, object]]:
    touched = sorted({of for of, delta in deltas.items() if delta} | set(sheet.turns))
    rows: list[dict[str, object]] = []
    for of in touched:
        row: dict[str, object] = {"of": of, "delta": deltas.get(of, 0)}
        if accounts.turns:
            now = sheet.subscriptions[of]
            row |= {"last": now.last_reset_time, "next": now.next_reset_time, "to_status": now.status}
        if accounts.subscription_stamp:
            row["at"] = sheet.now
        rows.append(row)
    return rows
