"""Switches prometheus_client to counters in files after it was imported.

Read in prometheus_client 0.26. Tried first: its variable `PROMETHEUS_MULTIPROC_DIR`, which is read only when
`prometheus_client.values` is imported. That is too early here: Celery's command line imports it with Flower before it
loads the app, and only the app knows whether the process becomes a worker, and so has a folder.
"""

from prometheus_client import values


def in_files() -> None:
    """Make every metric that is created from now on count into files in the variable's folder."""
    values.ValueClass = values.MultiProcessValue()
