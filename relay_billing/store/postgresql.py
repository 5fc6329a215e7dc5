"""PostgreSQL 13 and later, through psycopg 3."""

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from relay_billing.store.dialects import Dialect

SERIALIZATION, DEADLOCK = "40001", "40P01"


def _transient(error: DBAPIError) -> bool:
    # psycopg raises OperationalError for deadlocks, serialization failures, shutdowns and lost connections alike.
    state = getattr(error.orig, "sqlstate", None)
    lost = isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return lost or state in (SERIALIZATION, DEADLOCK)


POSTGRESQL = Dialect("postgresql", insert, (), None, _transient)
