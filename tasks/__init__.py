"""What the queue can ask. Thin: parse, call the ledger, sort outcomes."""
