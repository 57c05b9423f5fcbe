"""A model of the catalog that workers on a Ray hold, and this process does not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from .....store.catalog.tables import Model, Revision
from .....store.history import history
from ....model.anatomy import Anatomy
from ....model.loading import load_tokenizer
from ...devices import CPU
from ...worker.running import RunningJob
from ..loaded import delta_of
from .session import connected
from .worker import Weights, versions

if TYPE_CHECKING:
    from .pool import Pool


@dataclass(frozen=True)
class Remote:
    """What is known here of the model, and those that hold it."""

    model: Model
    revision: Revision
    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    pool: "Pool"


@contextmanager
def opened(
    running: RunningJob,
    name: str,
    revision_name: str,
    threads: int | None,
    unit: str,
    most: int | None = None,
) -> Iterator[Remote]:
    """A model at a revision on the job's Ray, held by at most `most` workers; `unit` is what the shards count.

    `threads` are those of each worker, by default as many as a job in this process would have. What the bits depend on
    is decided when the job first runs: resumed elsewhere, it goes on as it began.

    Raises:
        InputError: there is no such Ray.
        store.errors.NotFound: no such model or revision.
    """
    with running.catalog.read() as session:
        model = history.find_model(session, name)
        revision = history.find_revision(session, model, revision_name)
    folder = Path(model.path)
    tokenizer = load_tokenizer(folder, model.trust_remote_code)
    with connected(running):
        # Not before: Ray reads its settings when it is imported.
        import ray

        from .pool import Pool

        device = "cuda" if ray.cluster_resources().get("GPU") else CPU
        way = _way(running, {"device": device, "threads": threads or torch.get_num_threads()})
        # What this process adds up and solves for is as many threads' work too.
        torch.set_num_threads(way["threads"])
        weights = Weights(
            model.name,
            str(folder),
            model.trust_remote_code,
            model.anatomy,
            model.fingerprint,
            delta_of(running.catalog, revision),
            revision.fingerprint,
            way["device"],
            way["threads"],
            versions(),
        )
        yield Remote(
            model, revision, Anatomy.from_dict(model.anatomy), tokenizer, Pool(running, weights, unit, most)
        )


def _way(running: RunningJob, found: dict[str, Any]) -> dict[str, Any]:
    """How the job's workers work: as they did before, if it is resumed."""
    way: dict[str, Any] | None = running.job.checkpoint.get("workers")
    if way is None:
        way = found
        with running.catalog.write() as session:
            running.checkpoint(session, running.job.checkpoint | {"workers": way})
    return way
