"""Check the options of a publication and build its job."""

from dataclasses import dataclass, replace
from pathlib import Path

from ...engine.jobs.specs import SHARD_BYTES, PublishSpec
from ...store.catalog.catalog import Catalog
from ...store.errors import InputError
from ..presentation.publication_figures import draw_publication_figures
from .targets import resolve_target

FORMATS = ("checkpoint", "adapter")


@dataclass(frozen=True)
class PublishOptions:
    """What a person chooses for a publication."""

    target: str
    repo: str
    what: str = "checkpoint"
    public: bool = False
    dry_run: bool = False
    card: Path | None = None
    license: str | None = None
    message: str = ""
    shard_size: int = SHARD_BYTES


def build_publish_spec(catalog: Catalog, options: PublishOptions) -> PublishSpec:
    """Check the options and build the job, still without pictures. Does not import the hub's library.

    Raises:
        InputError: an option is wrong, or the card cannot be read.
        NotFound: the model or revision does not exist.
    """
    target = resolve_target(catalog, options.target)
    if not options.repo:
        raise InputError("the repo is empty: give it as YOU/NAME")
    if options.what not in FORMATS:
        raise InputError(f"publish as {' or '.join(FORMATS)}, not as {options.what!r}")
    return PublishSpec(
        model=target.model.name, repo=options.repo, revision=target.revision.id, export_kind=options.what,
        public=options.public, dry_run=options.dry_run, message=options.message,
        card=_read_card(options.card) if options.card else None, license=options.license or None,
        shard_size=options.shard_size,
    )  # fmt: skip


def add_pictures(catalog: Catalog, spec: PublishSpec) -> PublishSpec:
    """Draw the heat maps and curves of the model's traces and add them to the job."""
    target = resolve_target(catalog, f"{spec.model}@{spec.revision}")
    return replace(spec, pictures=draw_publication_figures(catalog, target.model, target.revision))


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
