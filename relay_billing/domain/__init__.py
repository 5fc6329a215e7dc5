"""Decides what each job changes in accounts and ledger. Standard library only; no I/O and no clock of its own."""
