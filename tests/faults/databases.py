"""The databases that a site may have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.mariadb_pair import MariaDBPair
from tests.faults.pair import Pair
from tests.faults.postgres_pair import PostgresPair

DATABASES: dict[str, Callable[[Path], Pair[Any]]] = {"postgresql": PostgresPair, "mariadb": MariaDBPair}
"""What `make chaos DATABASE=…` may name."""
