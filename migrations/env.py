"""The entry point of Alembic. It runs in the transaction of `store.catalog.migrate`.

Alembic loads this file by its path, outside of any package: relative imports do not work.
"""

from alembic import context
from sqlmodel import SQLModel

from retcon.store.catalog import tables

assert tables  # the import registers every table in the metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    # SQLite cannot alter most properties in place: Alembic copies the table.
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
