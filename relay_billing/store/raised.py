"""Errors of statements that went past SQLAlchemy's own execution, as SQLAlchemy would have raised them."""

from typing import Any

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.exc import DBAPIError

from relay_billing.store.failures import left_by


def driver_of(connection: Connection) -> Any:  # noqa: ANN401
    """The driver's module, whose `Error` all its errors are."""
    return connection.dialect.loaded_dbapi


def raised(connection: Connection, error: Exception, statement: str) -> DBAPIError:
    """The error as SQLAlchemy would have raised it. Where `connection_invalidated`, the caller has to do that."""
    left = left_with(connection.engine, connection.connection, error)
    made = DBAPIError.instance(statement, None, error, driver_of(connection).Error, connection_invalidated=left)
    assert isinstance(made, DBAPIError)
    return made


def left_with(engine: Engine, pooled: PoolProxiedConnection, error: Exception) -> bool:
    """Whether the connection is of no use after this error; then the pool makes the others of its time anew, too."""
    left = engine.dialect.is_disconnect(error, pooled.dbapi_connection, None) or left_by(error)  # type: ignore[arg-type]
    if left:
        # What SQLAlchemy does itself for a statement that it has run.
        engine.pool._invalidate(pooled, error, _checkin=False)
    return left
