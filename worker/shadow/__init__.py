"""Compares what a shadow has judged with what the relay's log says was charged, request by request (semantics §13)."""
