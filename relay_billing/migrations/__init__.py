"""Alembic migrations of the tables. A file's name says whether it runs before or after the code is deployed."""

from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, inspect

from relay_billing.schema import ACCOUNT_TABLES, metadata

VERSION_TABLE = "billing_alembic_version"
"""Ours has a name of its own: the database may be a relay's, with migrations of its own."""

_OURS = (*(each.name for each in reversed(metadata.sorted_tables) if each.name not in ACCOUNT_TABLES), VERSION_TABLE)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the database to `revision`; account tables are made only where they are missing."""
    command.upgrade(_config(connection), revision)


def downgrade(connection: Connection, revision: str = "base") -> None:
    """Take our tables back to `revision`; account tables are never dropped."""
    command.downgrade(_config(connection), revision)


def installed(connection: Connection) -> tuple[str, ...]:
    """The tables of ours that are there, those that others point to after them, and the version's last."""
    found = set(inspect(connection).get_table_names())
    return tuple(each for each in _OURS if each in found)


def complete(there: Sequence[str]) -> bool:
    """Whether these are all that the newest migration makes."""
    return set(there) == set(_OURS)


def uninstall(connection: Connection) -> tuple[str, ...]:
    """Drop every table of ours that is there, and return their names; account tables stay.

    Unlike `downgrade` it reverses no step: one that was cut off, where the database has no transactions for this, can
    be run again.
    """
    there = installed(connection)
    for name in there:
        Table(name, MetaData()).drop(connection)
    return there


def current(connection: Connection) -> str | None:
    """The revision that the database has; None: it was never migrated."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def revisions() -> tuple[str, ...]:
    """All revisions that this code knows, the first one first."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple(reversed([each.revision for each in scripts]))


def head() -> str | None:
    """The revision that this code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()
