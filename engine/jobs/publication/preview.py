"""What a publication will be, told without torch and without the hub: for a preview that a person reads and edits.

The card is the one that the job makes, but for the digests of files, which are known when those are written: whoever
publishes a card as it was edited puts its text into the spec.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlmodel import Session

from .... import __version__
from ....store.catalog.catalog import Catalog
from ....store.catalog.tables import Artifact, Model, Publication, Revision
from ....store.errors import InputError
from ....store.exchange.manifest import CARD, DELTAS, MANIFEST, Manifest, build_manifest
from ....store.history import history, publications
from ..specs import PublishSpec
from .card import CardInfo, build_card
from .licenses import find_license

# The largest rank of an adapter that servers load without being told (vLLM's max_lora_rank).
_USUAL_RANK = 16
# What a checkpoint has beside its weights, as it lies in the base's folder.
_BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")


@dataclass(frozen=True)
class Preview:
    """A publication beforehand: `sizes` are bytes, of the weights as one line, close to what will be sent."""

    card: str
    sizes: dict[str, int]
    warnings: list[str]
    rolls_back_from: str | None


@dataclass(frozen=True)
class PublicationInfo:
    """What is told of a publication beside its manifest; `before` is what it rolls back, if it does."""

    facts: CardInfo
    warnings: list[str]
    before: Publication | None


def build_preview(catalog: Catalog, spec: PublishSpec) -> Preview:
    """What publishing will come to.

    Raises:
        store.errors.NotFound: no such model or revision.
    """
    with catalog.read() as session:
        model = history.find_model(session, spec.model)
        revision = history.find_revision(session, model, spec.revision)
        manifest = build_manifest(session, model, revision, spec.what, program_version(), {})
        told = gather_publication_info(session, model, revision, spec, spec.repo)
        card = spec.card or build_card(manifest, told.facts)
        sizes = _sizes(session, model, manifest)
    sizes |= {
        f"pictures/{name}": catalog.artifacts.path(digest).stat().st_size for name, digest, _ in spec.pictures
    }
    sizes |= {MANIFEST: len(manifest.as_text().encode()), CARD: len(card.encode())}
    return Preview(card, sizes, told.warnings, told.before.revision if told.before else None)


def check_repo_name(repo: str) -> None:
    """Refuse what cannot name a repo before anything is written.

    Raises:
        store.errors.InputError: says what a name may hold.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} cannot name a repo of the hub: {error}") from error


def program_version() -> str:
    """This program and its version, as manifests and cards name it."""
    return f"retcon {__version__}"


def gather_publication_info(
    session: Session, model: Model, revision: Revision, spec: PublishSpec, repo: str
) -> PublicationInfo:
    """What the card and the publisher are told, for a repo by its whole name."""
    before = publications.find_newest(session, repo)
    if before is not None and not publications.is_descendant(session, before.revision, revision.id):
        before = None
    license = find_license(model, spec.license)
    found = [license.warning(repo), _rank_warning(revision) if spec.what == "adapter" else None]
    facts = CardInfo(
        repo,
        license,
        [(f"pictures/{name}", caption) for name, _, caption in spec.pictures],
        before.revision if before else None,
        f"edit/{revision.id}",
    )
    return PublicationInfo(facts, [one for one in found if one], before)


def _rank_warning(revision: Revision) -> str | None:
    """Servers that load adapters cap their rank; most take some hundreds when they are told to."""
    rank = max(
        (size["rank"] for size in revision.statistics.get("with_earlier_edits", {}).values()), default=0
    )
    if rank <= _USUAL_RANK:
        return None
    return (
        f"the adapter has rank {rank}: a server that caps the rank must be told so, or be given a checkpoint"
    )


def _sizes(session: Session, model: Model, manifest: Manifest) -> dict[str, int]:
    deltas = {
        f"{DELTAS}/{step.delta}.safetensors": artifact.size
        for step in manifest.steps
        if step.delta and (artifact := session.get(Artifact, step.delta)) is not None
    }
    if manifest.kind == "adapter":
        live = sum(deltas[step.delta_file] for step in manifest.live_steps if step.delta_file)
        return {"adapter_model.safetensors": live} | deltas
    folder = Path(model.path)
    beside = {path.name: path.stat().st_size for pattern in _BESIDE for path in folder.glob(pattern)}
    beside = {name: size for name, size in beside.items() if not name.endswith(".index.json")}
    return {"model*.safetensors": model.size} | beside | deltas
