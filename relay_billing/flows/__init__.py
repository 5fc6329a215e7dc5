"""What the ledger does, a noun a file: each flow loads rows, has the domain decide, and writes what it decided.

A flow is a generator function: it takes a `Context` and typed arguments, yields commands, is sent their replies, and
returns what came of it. `Ledger.run` and the async client carry the same flows out, each in one transaction.
"""
