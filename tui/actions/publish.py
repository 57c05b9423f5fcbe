"""Check the options of a publication and build its job."""

from dataclasses import replace
from pathlib import Path

from ...engine.jobs.specs import PublishSpec
from ...store.catalog.catalog import Catalog
from ...store.errors import InputError
from ..presentation.publication_figures import draw_publication_figures
from .targets import resolve_spec, resolve_target

FORMATS = ("checkpoint", "adapter")


def build_publish_spec(catalog: Catalog, draft: PublishSpec) -> PublishSpec:
    """Check a draft (see `resolve_spec`), still without pictures. Does not import the hub's library.

    Raises:
        InputError: an option is wrong.
        NotFound: the model or revision does not exist.
    """
    _, spec = resolve_spec(catalog, draft)
    if not spec.repo:
        raise InputError("the repo is empty: give it as YOU/NAME")
    if spec.export_kind not in FORMATS:
        raise InputError(f"publish as {' or '.join(FORMATS)}, not as {spec.export_kind!r}")
    return replace(spec, license=spec.license or None)


def add_pictures(catalog: Catalog, spec: PublishSpec) -> PublishSpec:
    """Draw the heat maps and curves of the model's traces and add them to the job."""
    target = resolve_target(catalog, f"{spec.model}@{spec.revision}")
    return replace(spec, pictures=draw_publication_figures(catalog, target.model, target.revision))


def read_card(path: Path) -> str:
    """The text of an edited model card. Raises InputError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
