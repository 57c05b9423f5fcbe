"""Find the model and the revision that a text such as `starter@base` names."""

from typing import NamedTuple

from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Model, Revision
from ...store.history import history
from .damage import convert_read_errors


class Target(NamedTuple):
    """A model and one of its revisions."""

    model: Model
    revision: Revision

    @property
    def layers(self) -> int:
        """The number of layers of the model."""
        return int(self.model.anatomy.get("layers", 0))


def resolve_target(catalog: Catalog, text: str) -> Target:
    """Find MODEL or MODEL@REVISION.

    Raises:
        InputError: the model or the revision does not exist. The message lists the existing ones.
        CatalogError: a row is damaged.
    """
    name, revision = history.parse_target(text.strip())
    with convert_read_errors(f"the history of {name}"), catalog.read() as session:
        model = history.find_model(session, name)
        return Target(model, history.find_revision(session, model, revision))
