"""A model of the catalog that the workers of a Ray load. This process loads only its tokenizer."""

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
from ..loaded import read_revision_delta
from .session import connect
from .worker import Weights, versions

if TYPE_CHECKING:
    from .pool import Pool


@dataclass(frozen=True)
class RemoteModel:
    """The rows, anatomy and tokenizer of a model, and the pool of workers that hold its weights."""

    model: Model
    revision: Revision
    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    pool: "Pool"


@contextmanager
def open_remote_model(
    running: RunningJob,
    name: str,
    revision_name: str,
    threads: int | None,
    unit: str,
    max_workers: int | None = None,
) -> Iterator[RemoteModel]:
    """Open a model at a revision on the job's Ray. `unit` is the unit of the shards' sizes, e.g. "facts".

    `threads` are those of each worker, by default torch's number in this process. The device and the threads affect
    the last bits of results, so a resumed job uses those of its first attempt.

    Raises:
        InputError: no Ray runs at the job's address.
        store.errors.NotFound: the model or the revision does not exist.
    """
    with running.catalog.read() as session:
        model = history.find_model(session, name)
        revision = history.find_revision(session, model, revision_name)
    folder = Path(model.path)
    tokenizer = load_tokenizer(folder, model.trust_remote_code)
    with connect(running):
        # Ray reads its environment variables when it is imported, and `connect` sets them.
        import ray

        from .pool import Pool

        device = "cuda" if ray.cluster_resources().get("GPU") else CPU
        settings: dict[str, Any] | None = running.job.checkpoint.get("workers")
        if settings is None:
            settings = {"device": device, "threads": threads or torch.get_num_threads()}
            with running.catalog.write() as session:
                running.checkpoint(session, running.job.checkpoint | {"workers": settings})
        # This process adds and solves with as many threads, for the same bits.
        torch.set_num_threads(settings["threads"])
        weights = Weights(
            name=model.name,
            folder=str(folder),
            trust_remote_code=model.trust_remote_code,
            anatomy=model.anatomy,
            base=model.fingerprint,
            delta=read_revision_delta(running.catalog, revision),
            fingerprint=revision.fingerprint,
            device=settings["device"],
            threads=settings["threads"],
            versions=versions(),
        )
        pool = Pool(running, weights, unit, max_workers)
        yield RemoteModel(model, revision, Anatomy(**model.anatomy), tokenizer, pool)
