"""A model of the catalog in memory, at one of its revisions. The weights are checked against the catalog."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Model, Revision
from ....store.errors import CatalogError
from ....store.history import history
from ...model.anatomy import Anatomy
from ...model.decoder import Decoder
from ...model.delta import Delta, Materializer, concatenate, read_delta
from ...model.loading import fingerprint, hash_parameters, hash_tensor, load_model, load_tokenizer
from ..worker.running import RunningJob


@dataclass
class Loaded:
    """A model in memory at `revision`. `delta` is the sum of the revision's edits.

    Only `place` changes `revision`, `delta` and the weights together. `holding` changes the weights for a `with` block.
    """

    catalog: Catalog
    model: Model
    decoder: Decoder
    tokenizer: PreTrainedTokenizerBase
    weights: Materializer
    revision: Revision
    delta: Delta = field(default_factory=dict)

    def place(self, revision: Revision, delta: Delta) -> None:
        """Write `base + delta` into the model, as the weights of `revision`.

        Matrices that the current revision does not change are first compared with the base in the catalog.

        Raises:
            CatalogError: such a matrix differs from its digest in the catalog.
        """
        for name in (name for name in delta if name not in self.delta):
            if hash_tensor(self.decoder.model.get_parameter(name)) != self.model.tensors[name]:
                raise CatalogError(
                    f"{name} in {self.model.path} has changed since {self.model.name} was added. Restore that folder, "
                    "or add the model again under another name."
                )
        self.weights.set(delta)
        self.revision, self.delta = revision, delta

    def move_to(self, revision: Revision) -> None:
        """Write the weights of another revision into the model and check their fingerprint.

        Raises:
            CatalogError: the weights differ from those that the revision was created with.
        """
        self.place(revision, read_revision_delta(self.catalog, revision))
        found = self.fingerprint()
        if found != revision.fingerprint:
            raise CatalogError(
                f"Revision {revision.id} of {self.model.name} has fingerprint {found[:12]}. It was created with "
                f"{revision.fingerprint[:12]}. Its base was changed on disk, or this machine multiplies differently."
            )

    @contextmanager
    def holding(self, delta: Delta) -> Iterator[None]:
        """Give the model the weights `base + delta` for a `with` block; an empty delta gives the base."""
        self.weights.set(delta)
        try:
            yield
        finally:
            self.weights.set(self.delta)

    def fingerprint(self) -> str:
        """The fingerprint of the current weights. Only matrices of the delta are hashed."""
        digests = {name: hash_tensor(self.decoder.model.get_parameter(name)) for name in self.delta}
        return fingerprint(self.model.tensors | digests)

    def verify_fingerprint(self) -> str:
        """Hash every parameter in memory and return the fingerprint.

        Raises:
            CatalogError: it differs from the revision's fingerprint.
        """
        found = fingerprint(hash_parameters(self.decoder.model))
        if found != self.revision.fingerprint:
            raise CatalogError(
                f"Revision {self.revision.id} of {self.model.name}: the weights have fingerprint {found[:12]}, "
                f"expected {self.revision.fingerprint[:12]}."
            )
        return found


def load(running: RunningJob, name: str, revision_name: str) -> Loaded:
    """Load a model at a revision on the job's device.

    Raises:
        store.errors.NotFound: the model or the revision does not exist.
        CatalogError: a matrix on disk has changed since the model was added.
    """
    return load_revision(
        running.catalog,
        name,
        revision_name,
        running.job.device,
        lambda: running.report_activity("loading", name),
    )


def load_revision(
    catalog: Catalog, name: str, revision_name: str, device: str, on_start: Callable[[], None] = lambda: None
) -> Loaded:
    """Load a model at a revision without a job. `on_start` is called before the files are read. Raises as `load`."""
    with catalog.read() as session:
        model = history.find_model(session, name)
        revision = history.find_revision(session, model, revision_name)
    on_start()
    folder = Path(model.path)
    module = load_model(folder, device, trust_remote_code=model.trust_remote_code)
    decoder = Decoder(module, Anatomy(**model.anatomy))
    tokenizer = load_tokenizer(folder, model.trust_remote_code)
    loaded = Loaded(catalog, model, decoder, tokenizer, Materializer(module), revision)
    loaded.move_to(revision)
    return loaded


def read_revision_delta(catalog: Catalog, revision: Revision) -> Delta:
    """The sum of all edits of a revision, in the order of its path. The hash of each file is checked."""
    with catalog.read() as session:
        edits = history.live_edits(history.load_path(session, revision.id))
    return concatenate(read_delta(catalog.artifacts.path(edit.delta)) for edit in edits if edit.delta)
