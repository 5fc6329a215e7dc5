"""The numbers of MySQL's and MariaDB's errors that are retried, and how."""

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

# Retried, on the same connection or another one.
DEADLOCK = 1213
"""The server ended one of two transactions that wait for each other; it may come at COMMIT, from a cluster."""
LOCK_WAIT_TIMEOUT = 1205
"""The wait for a lock was too long. The transaction is still open: whoever meets it must roll it back."""
CHANGED_MEANWHILE = 1020
"""A row was changed since it was read: the server aborted one of two conflicting transactions."""
STATEMENT_TIMEOUT = (1969, 3024)
"""The statement exceeded `max_statement_time` (MariaDB) or `max_execution_time` (MySQL)."""
INTERRUPTED = 1317
"""An operator, or a server that is shutting down, has ended the statement."""
TOO_MANY = (1040, 1203, 1226)
"""All connections of the server, or of this user, are taken."""
NO_ROOM = (1021, 1041, 1114, 1135)
"""A full disk, no memory, no thread. Over when others release resources, or an operator helps."""

# Retried on a new connection: this one, and those opened before, lead to a server that no longer serves us.
LOST = (2000, 2002, 2003, 2005, 2006, 2012, 2013, 2014, 2027, 2045, 2055, 4031)
"""The driver's own: no connection could be made, or it is lost."""
REFUSED_AT_CONNECT = (1042, 1043, 1045, 1049, 1129, 1130)
"""The server speaks, but lets nobody in: it may be starting, restored or moved; PostgreSQL's are retried too."""
SHUTDOWN = 1053
"""The server is shutting down."""
PACKETS = (1152, 1153, 1154, 1158, 1159, 1160, 1161, 1184, 1927)
"""The server has given the connection up, or an operator has ended it."""
READ_ONLY = (1290, 1792, 1836)
"""The server became a replica, and another one takes writes; or an operator has paused writes."""
NOT_READY = (1047,)
"""A node of a cluster that has lost the others."""

_AFRESH = frozenset((*LOST, *REFUSED_AT_CONNECT, SHUTDOWN, *PACKETS, *READ_ONLY, *NOT_READY))
_AGAIN = _AFRESH | {
    DEADLOCK,
    LOCK_WAIT_TIMEOUT,
    CHANGED_MEANWHILE,
    *STATEMENT_TIMEOUT,
    INTERRUPTED,
    *TOO_MANY,
    *NO_ROOM,
}


def number_of(error: BaseException | None) -> int | None:
    """The number of a driver's error; None: it has none, so the connection failed or broke."""
    number = error.args[0] if error is not None and error.args else None
    return number if isinstance(number, int) and number else None


def again(error: DBAPIError) -> bool:
    """Whether the same transaction, tried again, may succeed."""
    return _lost(error) or number_of(error.orig) in _AGAIN


def afresh(error: DBAPIError) -> bool:
    """Whether the next attempt needs a connection that was made after this error."""
    return _lost(error) or number_of(error.orig) in _AFRESH


def _lost(error: DBAPIError) -> bool:
    # PyMySQL's error of a connection that is closed already has the number 0.
    unspoken = isinstance(error, OperationalError | InterfaceError) and number_of(error.orig) is None
    return unspoken or error.connection_invalidated
