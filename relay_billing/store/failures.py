"""The SQLSTATEs of PostgreSQL's errors that are retried, and how. SQLite's errors are in `sqlite`."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

# Retried, on the same connection or another one.
SERIALIZATION = "40001"
"""The database aborted one of two conflicting transactions; the other one is over by the next attempt."""
DEADLOCK = "40P01"
"""The same for two that wait for each other: another program locks rows in another order than we do."""
LOCK_NOT_AVAILABLE = "55P03"
"""The wait exceeded a `lock_timeout` that the operator has set; locks are usually released soon."""
QUERY_CANCELED = "57014"
"""The statement exceeded `statement_timeout`, for example because a frozen process has locked a row."""
IDLE_IN_TRANSACTION = "25P03"
"""This process was frozen within a transaction, and the server ended the connection to release its locks."""
TRANSACTION_TIMEOUT = "25P04"
"""The same by `transaction_timeout`, of PostgreSQL 17."""
IDLE_SESSION = "57P05"
"""The server has closed a connection that was idle in the pool for too long."""
RESOURCES = "53"
"""A class: too many connections, no memory, a full disk. Over when others release resources, or an operator helps."""
SYSTEM = "58"
"""A class: an I/O error, for example of a disk that is unavailable for a moment."""

# Retried on a new connection: this one, and those opened before, lead to a server that no longer serves us.
CONNECTION = "08"
"""A class: the connection is lost, could not be made, or a pooler has closed it."""
READ_ONLY = "25006"
"""The server became a standby, and another one takes writes; or an operator has paused writes."""
ADMIN_SHUTDOWN = "57P01"
"""The server is shutting down, or an operator has ended this connection."""
CRASH_SHUTDOWN = "57P02"
"""Another process of the server crashed, and the server ends all connections to recover."""
CANNOT_CONNECT_NOW = "57P03"
"""The server is starting, recovering or shutting down."""
STATEMENT_UNKNOWN = "26000"
"""No such prepared statement: it was prepared on another server connection, and a pooler has switched between them."""
STATEMENT_KNOWN = "42P05"
"""The prepared statement exists already, for the same reason."""

AFRESH = (
    CONNECTION,
    READ_ONLY,
    ADMIN_SHUTDOWN,
    CRASH_SHUTDOWN,
    CANNOT_CONNECT_NOW,
    STATEMENT_UNKNOWN,
    STATEMENT_KNOWN,
)
"""States, and classes of them, after which the pool's connections are reopened."""
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
    """The SQLSTATE of a driver's error; None: the server did not report it, so the connection failed or broke.

    Errors that psycopg raises itself, such as a lost connection, have none.
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
    """Whether an error of the driver, not wrapped by SQLAlchemy, says that its server no longer serves us."""
    return (state_of(error) or "").startswith(AFRESH)


def cause_of(error: SQLAlchemyError) -> str:
    """The first line of the driver's message, or of SQLAlchemy's if the driver did not raise the error."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return str(said).strip().split("\n")[0]
