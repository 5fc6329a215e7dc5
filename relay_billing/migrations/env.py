"""Run by Alembic, on the connection that it was given."""

from alembic import context

from relay_billing.migrations import VERSION_TABLE
from relay_billing.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
