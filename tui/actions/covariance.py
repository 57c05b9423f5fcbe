"""Check the options of a covariance and build its job."""

from collections.abc import Sequence

from sqlmodel import Session

from ...engine.jobs.settings import check_layers
from ...engine.jobs.specs import CovarianceSpec
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import Covariance, Model
from ...store.errors import InputError, NotFound
from ...store.history import history
from .damage import convert_read_errors


def check_covariance(catalog: Catalog, spec: CovarianceSpec) -> None:
    """Check the layers of a job.

    Raises:
        InputError: a layer is out of range.
        NotFound: the model does not exist.
    """
    with catalog.read() as session:
        model = history.find_model(session, spec.model)
    check_layers(model, spec.layers)


def build_covariance_extension(
    catalog: Catalog, ids: Sequence[int], max_tokens: int, tolerance: float | None = None
) -> CovarianceSpec:
    """The job that continues covariances of one run to `max_tokens` in all.

    Raises:
        InputError: they are of several models or runs, were imported, or have enough tokens already.
        NotFound: a covariance does not exist.
        CatalogError: a row is damaged.
    """
    with convert_read_errors("the covariances"), catalog.read() as session:
        loaded = [load_covariance(session, id) for id in ids]
    names = {model.name for _, model in loaded}
    if len(names) > 1:
        raise InputError(
            f"the covariances are of several models ({', '.join(sorted(names))}): extend those of one"
        )
    return CovarianceSpec.continue_from([row for row, _ in loaded], names.pop(), max_tokens, tolerance)


def load_covariance(session: Session, id: int) -> tuple[Covariance, Model]:
    """A covariance and its model. Raises NotFound."""
    row = session.get(Covariance, id)
    if row is None:
        raise NotFound(f"covariance {id} does not exist; `retcon covariance list` lists the covariances")
    return row, session.get_one(Model, row.model_id)
