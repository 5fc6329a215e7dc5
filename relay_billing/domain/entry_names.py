"""Names of the ledger rows that no session owns. A request id may be spelt like one: kinds tell them apart."""

OPENING = "opening"


def forfeit_name(request_id: str) -> str:
    """The name of the row that takes out again what a session gave back to a period that is over (semantics §7)."""
    return f"forfeit:{request_id}"


def write_off_name(letter_id: int) -> str:
    """The name of the row that says why a dead letter was written off."""
    return f"writeoff:{letter_id}"


def top_up_name(reference: str) -> str:
    """The name of a top-up's row, by which its reference is known again."""
    return f"topup:{reference}"
