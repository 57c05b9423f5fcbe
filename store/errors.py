"""The errors of the store. Each message says what is wrong, where, and what to do."""

from ..errors import InputError

__all__ = [
    "ArtifactCorrupt", "CatalogError", "CatalogTooNew", "InputError", "LostOwnership", "NotFound",
]  # fmt: skip


class NotFound(InputError):
    """The catalog has no row of that name. The message lists the existing names."""


class CatalogError(Exception):
    """The catalog or an artifact failed although the input was valid. The command line exits with 1."""


class CatalogTooNew(CatalogError):
    """A newer program migrated the catalog. This program must not change it."""


class ArtifactCorrupt(CatalogError):
    """An artifact is missing, or its bytes do not have the digest that is its name."""


class LostOwnership(CatalogError):
    """Another process owns the job's row now. The process that gets this error must stop writing."""
