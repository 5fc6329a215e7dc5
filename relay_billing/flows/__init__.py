"""The ledger's operations, one noun per file: each flow loads rows, lets the domain decide, and writes the changes.

A flow is a generator function: it takes a `Context` and typed arguments, yields commands, is sent their replies, and
returns the result. `Ledger.run` and the async client run the same flows, each in one transaction.
"""
