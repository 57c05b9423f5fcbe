"""The preview of a publication, and its submission."""

import re

from ....engine.jobs import control
from ....engine.jobs.devices import CPU
from ....engine.jobs.publication.preview import Preview
from ....engine.jobs.specs import PublishSpec
from ....store.catalog.catalog import Catalog
from ...actions.damage import convert_read_errors


def load_preview(catalog: Catalog, spec: PublishSpec) -> tuple[Preview, str | None, bool]:
    """(preview, revision that this catalog last published to the repo, whether a token is saved).

    Raises:
        store.errors.InputError: the repo name is invalid, or the license of the base forbids publishing.
        store.errors.CatalogError: a required row is unreadable.
    """
    from ....engine.jobs.publication.preview import build_preview, check_repo_name
    from ....store.history import publications
    from ...hub_token import token_is_set

    check_repo_name(spec.repo)
    with convert_read_errors(f"the publications to {spec.repo}"), catalog.read() as session:
        newest = publications.find_newest(session, spec.repo)
    with convert_read_errors(f"the history of {spec.model}"):
        preview = build_preview(catalog, spec)
    return preview, newest.revision if newest else None, token_is_set()


def save_card(catalog: Catalog, spec: PublishSpec) -> str | None:
    """Write an edited card to a file for the equivalent command; None if the card was not edited."""
    from ....store.atomic_files import write_atomically

    text = spec.card
    if text is None:
        return None
    folder = catalog.home.root / "cards"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{re.sub('[^A-Za-z0-9_.-]', '-', spec.repo)}.md"

    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"), private=True)
    return str(path)


def submit_publication(catalog: Catalog, spec: PublishSpec) -> str:
    """Draw the figures of the publication and start the job."""
    from ...actions.publish import add_pictures

    job = control.submit(catalog, add_pictures(catalog, spec), CPU)
    return f"job {job.id} queued"
