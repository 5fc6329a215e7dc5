"""How an engine is made for each kind of database: its URL, its pool, its connections."""

from collections.abc import Mapping

from sqlalchemy import URL, Engine
from sqlalchemy.pool import NullPool

from relay_billing.column_types import MYSQL
from relay_billing.store.waits import OWN_PARAMETERS, POOL_TIMEOUT_S, TCP_OPTIONS, Bounds

BOUNDS = "relay_billing_bounds"
"""The execution option in which an engine carries its `Bounds`."""


def engine_options(url: URL, bounds: Bounds, *, keep: bool) -> dict[str, object]:
    """Options of `create_engine`: how connections are pooled and opened. `keep`: as in `engine_of`."""
    options: dict[str, object] = {"execution_options": {BOUNDS: bounds}}
    if not keep:
        options["poolclass"] = NullPool
    if url.get_backend_name() == "sqlite":
        return options | ({} if keep else {"connect_args": {"timeout": bounds.waits.connect_s}})
    if keep:
        options |= {"pool_timeout": POOL_TIMEOUT_S, "pool_use_lifo": True}
    if url.get_backend_name() == "postgresql":
        usual = {name: value for name, value in TCP_OPTIONS.items() if name not in url.query}
        return options | {"connect_args": usual}
    # Connections roll back themselves when they are given back (`mysql_connections`).
    return options | {"pool_reset_on_return": None}


def server_url(url: URL, drivers: Mapping[str, str]) -> URL:
    """The URL for SQLAlchemy: without our own parameters, with the driver for its kind of database.

    `drivers`: SQLAlchemy's names, by that of PostgreSQL, MySQL and SQLite.
    """
    name = "mysql" if url.get_backend_name() in MYSQL else url.get_backend_name()
    if name == "mysql":
        # The drivers' defaults differ.
        url = url.update_query_dict({"charset": "utf8mb4"})
    return url.set(drivername=drivers.get(name, url.drivername)).difference_update_query(OWN_PARAMETERS)


def bind(engine: Engine, bounds: Bounds) -> None:
    """Make the engine of a server open bounded connections; SQLite's stays as it is. Imports the server's driver."""
    if engine.dialect.name in MYSQL:
        from relay_billing.store import mysql_connections

        mysql_connections.bound(engine, bounds)
    elif engine.dialect.name == "postgresql":
        from relay_billing.store import connections

        connections.bound(engine, bounds)
