"""Find the model and the revision that a text such as `starter@base` names."""

from dataclasses import replace
from typing import NamedTuple, TypeVar

from ...engine.jobs.specs import EditSpec, EvaluationSpec, PassageSpec, PublishSpec, SweepSpec, TraceSpec
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Model, Revision
from ...store.history import history
from .damage import convert_read_errors

S = TypeVar("S", EditSpec, EvaluationSpec, PassageSpec, PublishSpec, SweepSpec, TraceSpec)


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


def resolve_spec(catalog: Catalog, draft: S) -> tuple[Target, S]:
    """The target and the spec of a draft, whose `model` is MODEL or MODEL@REVISION. Raises like `resolve_target`."""
    target = resolve_target(catalog, draft.model)
    return target, replace(draft, model=target.model.name, revision=target.revision.id)
