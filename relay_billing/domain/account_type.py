"""The kinds of accounts that the ledger keeps."""

from enum import StrEnum


class AccountType(StrEnum):
    """Whose balance a ledger row moves (semantics §10)."""

    WALLET = "wallet"
    SUBSCRIPTION = "subscription"
    TOKEN = "token"
