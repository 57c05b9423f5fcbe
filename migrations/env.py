"""Alembic's entry: it always runs on the connection, and in the transaction, that `store.migrate` gives it.

Alembic loads this file by its path, outside of any package, so it cannot import relatively.
"""

from alembic import context
from sqlmodel import SQLModel

from retcon.store.catalog import tables

assert tables  # imported so that the metadata knows every table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    # SQLite can alter next to nothing in place: Alembic copies the table.
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
