"""Decides what every job does to the books. Standard library only; no I/O and no clock of its own."""
