"""What the catalog raises. Each message is one sentence: what is wrong, where, and what to do."""

from ..errors import InputError

__all__ = [
    "ArtifactCorrupt", "CatalogError", "CatalogTooNew", "InputError", "LostOwnership", "NotFound",
]  # fmt: skip


class NotFound(InputError):
    """A name that the catalog does not hold; the message names what it does hold."""


class CatalogError(Exception):
    """The catalog or an artifact failed although the input was right. The command line exits with 1."""


class CatalogTooNew(CatalogError):
    """The catalog was migrated by a newer program; this one must not touch it."""


class ArtifactCorrupt(CatalogError):
    """An artifact is missing, short, or its bytes no longer have the digest that names it."""


class LostOwnership(CatalogError):
    """A job's row belongs to another process now; the one that gets this must stop writing."""
