"""Preview a publication without torch and without the Hub.

The card is the one that the job builds, except for the digests of files that the job has yet to write. To publish an
edited card, put its text into the spec.
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

# The default largest rank of an adapter in servers (vLLM's max_lora_rank).
_DEFAULT_MAX_RANK = 16
# Files of the base's folder that a checkpoint contains beside its weights.
_OTHER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")


@dataclass(frozen=True)
class Preview:
    """A planned publication. `sizes` are approximate bytes per file, with all weight files in one entry."""

    card: str
    sizes: dict[str, int]
    warnings: list[str]
    rolls_back_from: str | None


@dataclass(frozen=True)
class PublicationInfo:
    """Information on a publication beyond its manifest; `rolled_back` is the newer publication that it replaces."""

    card_info: CardInfo
    warnings: list[str]
    rolled_back: Publication | None


def build_preview(catalog: Catalog, spec: PublishSpec) -> Preview:
    """The card, sizes and warnings of a planned publication.

    Raises:
        store.errors.NotFound: the model or the revision does not exist.
    """
    with catalog.read() as session:
        model = history.find_model(session, spec.model)
        revision = history.find_revision(session, model, spec.revision)
        manifest = build_manifest(session, model, revision, spec.export_kind, program_version(), {})
        info = collect_publication_info(session, model, revision, spec, spec.repo)
        card = spec.card or build_card(manifest, info.card_info)
        sizes = _estimate_sizes(session, model, manifest)
    sizes |= {
        f"pictures/{name}": catalog.artifacts.path(digest).stat().st_size for name, digest, _ in spec.pictures
    }
    sizes |= {MANIFEST: len(manifest.as_text().encode()), CARD: len(card.encode())}
    return Preview(card, sizes, info.warnings, info.rolled_back.revision if info.rolled_back else None)


def check_repo_name(repo: str) -> None:
    """Raise InputError if the text is not a valid name of a Hub repo."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is not a valid name of a Hub repo: {error}") from error


def program_version() -> str:
    """Name and version of this program, for manifests and cards."""
    return f"retcon {__version__}"


def collect_publication_info(
    session: Session, model: Model, revision: Revision, spec: PublishSpec, repo: str
) -> PublicationInfo:
    """Information for the card and the publisher; `repo` is the full name with its owner."""
    newest = publications.find_newest(session, repo)
    is_rollback = newest is not None and publications.is_descendant(session, newest.revision, revision.id)
    rolled_back = newest if is_rollback else None
    license = find_license(model, spec.license)
    warnings = [warning] if (warning := license.find_warning(repo)) else []
    sizes = revision.statistics.get("with_earlier_edits", {}).values()
    rank = max((size["rank"] for size in sizes), default=0)
    if spec.export_kind == "adapter" and rank > _DEFAULT_MAX_RANK:
        warnings.append(
            f"the adapter has rank {rank}: raise the maximum rank of the server (vLLM: max_lora_rank), or publish a "
            "checkpoint"
        )
    card_info = CardInfo(
        repo,
        license,
        [(f"pictures/{name}", caption) for name, _, caption in spec.pictures],
        rolled_back.revision if rolled_back else None,
        f"edit/{revision.id}",
    )
    return PublicationInfo(card_info, warnings, rolled_back)


def _estimate_sizes(session: Session, model: Model, manifest: Manifest) -> dict[str, int]:
    deltas = {
        f"{DELTAS}/{step.delta}.safetensors": artifact.size
        for step in manifest.steps
        if step.delta and (artifact := session.get(Artifact, step.delta)) is not None
    }
    if manifest.kind == "adapter":
        adapter = sum(deltas[step.delta_file] for step in manifest.live_steps if step.delta_file)
        return {"adapter_model.safetensors": adapter} | deltas
    folder = Path(model.path)
    others = {path.name: path.stat().st_size for pattern in _OTHER_FILES for path in folder.glob(pattern)}
    others = {name: size for name, size in others.items() if not name.endswith(".index.json")}
    return {"model*.safetensors": model.size} | others | deltas
