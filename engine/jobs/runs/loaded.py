"""A model of the catalog, loaded at one of its revisions and checked against what the catalog says of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """A model in memory and the revision that it is at; it moves to another without being loaded again."""

    catalog: Catalog
    model: Model
    decoder: Decoder
    tokenizer: PreTrainedTokenizerBase
    weights: Materializer
    revision: Revision
    delta: Delta

    def move_to(self, revision: Revision) -> None:
        """Materialize another revision and check its fingerprint.

        Raises:
            CatalogError: the weights are not those that the revision had when it was made.
        """
        delta = delta_of(self.catalog, revision)
        self.weights.set(delta)
        self.revision, self.delta = revision, delta
        found = self.fingerprint()
        if found != revision.fingerprint:
            raise CatalogError(
                f"revision {revision.id} of {self.model.name} has fingerprint {found[:12]}, when it was made it "
                f"had {revision.fingerprint[:12]}: its base was changed on disk, or this machine multiplies differently"
            )

    def fingerprint(self) -> str:
        """The fingerprint of the weights now; untouched matrices count as the base's."""
        touched = {name: hash_tensor(self.decoder.model.get_parameter(name)) for name in self.delta}
        return fingerprint(self.model.tensors | touched)


def load(running: RunningJob, name: str, revision_name: str) -> Loaded:
    """Load a model at a revision, on the job's device, checking the touched matrices before and after.

    Raises:
        store.errors.NotFound: no such model or revision.
        CatalogError: a matrix on disk is not what it was when the model was added.
    """
    return load_at(
        running.catalog,
        name,
        revision_name,
        running.job.device,
        lambda: running.report_activity(f"loading {name}"),
    )


def load_at(
    catalog: Catalog, name: str, revision_name: str, device: str, say: Callable[[], None] = lambda: None
) -> Loaded:
    """The same without a job; `say` is called when the loading begins. Raises as `load` does."""
    with catalog.read() as session:
        model = history.find_model(session, name)
        revision = history.find_revision(session, model, revision_name)
    say()
    folder = Path(model.path)
    loaded = load_model(folder, device, trust_remote_code=model.trust_remote_code)
    decoder = Decoder(loaded, Anatomy.from_dict(model.anatomy))
    tokenizer = load_tokenizer(folder, model.trust_remote_code)
    result = Loaded(catalog, model, decoder, tokenizer, Materializer(loaded), revision, {})
    touched = delta_of(catalog, revision)
    check_tensors(result, touched)
    result.move_to(revision)
    return result


def check_tensors(loaded: Loaded, names: Sequence[str] | Delta) -> None:
    """Compare matrices as loaded with the digests that the catalog noted when the model was added.

    Those that the revision changed are not as loaded any more: they were compared before that.
    """
    for name in names:
        if name in loaded.delta:
            continue
        if hash_tensor(loaded.decoder.model.get_parameter(name)) != loaded.model.tensors[name]:
            raise CatalogError(
                f"{name} in {loaded.model.path} is not what it was when {loaded.model.name} was added; "
                "restore that folder, or add the model again under another name"
            )


def check_everything(loaded: Loaded) -> str:
    """Hash every parameter in memory; the fingerprint of all of them.

    Raises:
        CatalogError: it is not the revision's.
    """
    found = fingerprint(hash_parameters(loaded.decoder.model))
    if found != loaded.revision.fingerprint:
        raise CatalogError(
            f"revision {loaded.revision.id} of {loaded.model.name}: the weights' fingerprint is {found[:12]}, "
            f"it should be {loaded.revision.fingerprint[:12]}"
        )
    return found


def delta_of(catalog: Catalog, revision: Revision) -> Delta:
    """All edits that make up a revision, concatenated in the order of its path; each file is verified by its hash."""
    with catalog.read() as session:
        edits = history.live_edits(history.load_path(session, revision.id))
    return concatenate(read_delta(catalog.artifacts.path(edit.delta)) for edit in edits if edit.delta)
