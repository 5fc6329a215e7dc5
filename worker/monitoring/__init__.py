"""Counters, gauges of database and broker, and a worker's `/metrics` and `/ready`."""
