"""States that an error of PostgreSQL may be in, and what each asks for. `sqlite` has SQLite's."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

# Tried again, on the same connection or another one.
SERIALIZATION = "40001"
"""The database aborted one of two transactions that can't both be; the other one is over at the next attempt."""
DEADLOCK = "40P01"
"""The same, of two that wait for each other: something else locks rows in another order than ours."""
LOCK_NOT_AVAILABLE = "55P03"
"""A `lock_timeout` that the operator has set: who holds the row is soon done with it."""
QUERY_CANCELED = "57014"
"""The statement took longer than `statement_timeout`, for a row that a frozen process has locked, for example."""
IDLE_IN_TRANSACTION = "25P03"
"""This process was frozen within a transaction, and the server took its locks away."""
TRANSACTION_TIMEOUT = "25P04"
"""The same by `transaction_timeout`, of PostgreSQL 17."""
IDLE_SESSION = "57P05"
"""The server has closed a connection that lay in the pool for too long."""
RESOURCES = "53"
"""A class: too many connections, no memory, a full disk. Others give back what they have, or an operator helps."""
SYSTEM = "58"
"""A class: an I/O error, of a disk that is about to be replaced or is away for a moment."""

# Tried again on a fresh connection: this one, and those made before it, lead to a server that no longer serves us.
CONNECTION = "08"
"""A class: the connection is lost, could not be made, or a pooler has closed it."""
READ_ONLY = "25006"
"""The server became a standby, so the writes belong to another one; or somebody stopped them for a while."""
ADMIN_SHUTDOWN = "57P01"
"""The server ends in order, or an operator has ended this connection."""
CRASH_SHUTDOWN = "57P02"
"""Another process of the server crashed, and the server ends all connections to recover."""
CANNOT_CONNECT_NOW = "57P03"
"""The server starts, recovers or shuts down."""
STATEMENT_UNKNOWN = "26000"
"""No such prepared statement: a pooler has put another server behind the connection on which it was prepared."""
STATEMENT_KNOWN = "42P05"
"""There is such a prepared statement already: the other half of the same."""

AFRESH = (
    CONNECTION,
    READ_ONLY,
    ADMIN_SHUTDOWN,
    CRASH_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    STATEMENT_UNKNOWN,
    STATEMENT_KNOWN,
)
"""States, and classes of them, after which the pool's connections are made anew."""
AGAIN = (
    *AFRESH,
    SERIALIZATION,
    DEADLOCK,
    LOCK_NOT_AVAILABLE,
    QUERY_CANCELED,
    IDLE_IN_TRANSACTION,
    TRANSACTION_TIMEOUT,
    IDLE_SESSION,
    RESOURCES,
    SYSTEM,
)
"""States, and classes of them, after which the same transaction may succeed."""


def state_of(error: BaseException | None) -> str | None:
    """The sqlstate of a driver's error; None: the server has not spoken, so the connection could not be made, or broke.

    Of psycopg: what it raises itself, a lost connection for one, has none.
    """
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else None


def _lost(error: DBAPIError) -> bool:
    unspoken = state_of(error.orig) is None and isinstance(error, OperationalError | InterfaceError)
    return unspoken or error.connection_invalidated


def again(error: DBAPIError) -> bool:
    """Whether the same transaction, tried again, may succeed."""
    return _lost(error) or (state_of(error.orig) or "").startswith(AGAIN)


def afresh(error: DBAPIError) -> bool:
    """Whether the next attempt needs a connection that was made after this error."""
    return _lost(error) or (state_of(error.orig) or "").startswith(AFRESH)


def left_by(error: Exception) -> bool:
    """Whether a driver's own error says that its connection leads to a server that no longer serves us."""
    return (state_of(error) or "").startswith(AFRESH)


def cause_of(error: SQLAlchemyError) -> str:
    """The driver's own words where it raised the error, else SQLAlchemy's, in one line."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return str(said).strip().split("\n")[0]
