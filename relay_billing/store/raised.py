"""Driver errors of statements that did not go through SQLAlchemy, raised as SQLAlchemy would raise them."""

from typing import Any

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from relay_billing.store.failures import left_by


def driver_of(connection: Connection) -> Any:  # noqa: ANN401
    """The driver's module; all its errors are subclasses of its `Error`."""
    return connection.dialect.loaded_dbapi


def raised(connection: Connection, error: Exception, statement: str) -> DBAPIError:
    """The error as SQLAlchemy would raise it. If `connection_invalidated` is set, the caller must invalidate it."""
    left = left_with(connection.engine, connection.connection, error)
    made = DBAPIError.instance(statement, None, error, driver_of(connection).Error, connection_invalidated=left)
    assert isinstance(made, DBAPIError)
    return made


def left_with(engine: Engine, pooled: PoolProxiedConnection, error: Exception) -> bool:
    """Whether the connection is unusable after this error; then the pool also reopens all others opened before now."""
    left = engine.dialect.is_disconnect(error, pooled.dbapi_connection, None) or left_by(error)  # type: ignore[arg-type]
    if left:
        # As SQLAlchemy does for a statement that it has run itself.
        engine.pool._invalidate(pooled, error, _checkin=False)
    return left
