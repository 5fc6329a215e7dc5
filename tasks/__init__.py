"""The Celery tasks. Each parses its message, calls the ledger, and sorts the outcomes."""
