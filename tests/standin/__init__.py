"""A stand-in for a new-api relay: its habits with balances, caches and its log, written from what it is seen to do."""
