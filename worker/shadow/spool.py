"""Both sides' rows in a temporary SQLite file, where they meet by request id.

Memory is bounded whatever their number. Neither database has to look a request up, and ids are compared byte by byte,
whatever the collations of the two. The file takes about 150 bytes a request in the folder for temporary files.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.shadow.verdicts import Pair

_TABLES = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    CREATE TABLE ours (request_id TEXT PRIMARY KEY, user_id INT, at INT NOT NULL, quota INT NOT NULL,
        refused INT NOT NULL, open INT NOT NULL, funds INT, below INT NOT NULL DEFAULT 0) WITHOUT ROWID;
    CREATE TABLE theirs (request_id TEXT PRIMARY KEY, user_id INT, at INT NOT NULL, quota INT NOT NULL) WITHOUT ROWID;
"""
# A request that was refused and came again is the session that it got.
_ADD_SESSION = "INSERT OR REPLACE INTO ours VALUES (?, ?, ?, ?, 0, ?, ?, 0)"
_ADD_REFUSAL = "INSERT OR IGNORE INTO ours VALUES (?, ?, ?, 0, 1, 0, ?, 0)"
_MARK_BELOW = "UPDATE ours SET below = 1 WHERE request_id = ?"
_ADD_CHARGE = """INSERT INTO theirs VALUES (?, ?, ?, ?)
    ON CONFLICT (request_id) DO UPDATE SET quota = quota + excluded.quota, at = min(at, excluded.at)"""
_FIRST = "SELECT min(at) FROM ours WHERE at >= ?"
# Either side may be the only one: what began before is only there to be met by what came after.
_PAIRS = """
    SELECT o.request_id, o.user_id, o.at, o.quota, t.quota, o.refused, o.open, o.funds, o.below
    FROM ours AS o LEFT JOIN theirs AS t ON t.request_id = o.request_id WHERE o.at >= :since
    UNION ALL
    SELECT t.request_id, t.user_id, t.at, NULL, t.quota, 0, 0, NULL, 0
    FROM theirs AS t WHERE t.at >= :since AND NOT EXISTS (SELECT 1 FROM ours AS o WHERE o.request_id = t.request_id)
"""


class Spool:
    """The rows of both sides. All times are Unix milliseconds, amounts quota."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.executescript(_TABLES)

    def add_sessions(self, rows: Iterable[tuple[str, int, int, int, bool, int | None]]) -> None:
        """Add sessions: request id, user, time, what is charged, whether it is open, what there was."""
        self._connection.executemany(_ADD_SESSION, rows)

    def add_refusals(self, rows: Iterable[tuple[str, int, int, int | None]]) -> None:
        """Add refusals: request id, user, time, what there was. A request that has a session is left as it is."""
        self._connection.executemany(_ADD_REFUSAL, rows)

    def mark_below(self, request_ids: Iterable[str]) -> None:
        """Mark requests whose wallet was below 0."""
        self._connection.executemany(_MARK_BELOW, ((each,) for each in request_ids))

    def add_charges(self, rows: Iterable[tuple[str, int | None, int, int]]) -> None:
        """Add their charges: request id, user, time, quota. Those of one request are added up."""
        self._connection.executemany(_ADD_CHARGE, rows)

    def first_at(self, since_ms: int) -> int | None:
        """When we were first asked, then or later; None: never."""
        (found,) = self._connection.execute(_FIRST, (since_ms,)).fetchone()
        return None if found is None else int(found)

    def pairs(self, since_ms: int) -> Iterator[Pair]:
        """Every request of either side that began then or later, once."""
        for of, user_id, at, ours, theirs, refused, is_open, funds, below in self._connection.execute(
            _PAIRS, {"since": since_ms}
        ):
            yield Pair(of, user_id, at, ours, theirs, bool(refused), bool(is_open), funds, bool(below))


@contextmanager
def spool() -> Iterator[Spool]:
    """An empty spool; its file is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="relay-billing-") as folder:
        connection = sqlite3.connect(Path(folder) / "spool.db")
        try:
            yield Spool(connection)
        finally:
            connection.close()
