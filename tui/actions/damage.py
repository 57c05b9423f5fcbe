"""Turn what a damaged row of the catalog raises into one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...store.errors import CatalogError

# What damaged JSON, dates and shapes raise.
READ_ERRORS = (ValueError, TypeError, LookupError, AttributeError)


@contextmanager
def convert_read_errors(name: str) -> Iterator[None]:
    """Run code that reads whole rows; `name` says of what.

    Raises:
        CatalogError: one of the rows is damaged.
    """
    # Not at the top: the app starts without SQLAlchemy.
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (*READ_ERRORS, DBAPIError) as error:
        raise CatalogError(f"{name} has a damaged row ({error}): restore a backup of the catalog.") from error
