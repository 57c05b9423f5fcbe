"""What publishing would send, for the screen that shows it first."""

import re
from pathlib import Path

from ....engine.jobs import control
from ....engine.jobs.devices import CPU
from ....engine.jobs.publication.preview import Preview
from ....engine.jobs.specs import PublishSpec
from ....store.catalog.catalog import Catalog
from ...actions.damage import convert_read_errors


def load_preview(catalog: Catalog, spec: PublishSpec) -> tuple[Preview, str | None, bool]:
    """What it comes to, the revision that the repo has from this catalog, and whether a token is kept.

    Raises:
        store.errors.InputError: no repo can have that name, or the base's license forbids it.
        store.errors.CatalogError: a row that was needed is damaged.
    """
    from ....engine.jobs.publication.preview import build_preview, check_repo_name
    from ....store.history import publications
    from ...hub_token import token_is_set

    check_repo_name(spec.repo)
    with convert_read_errors(f"what {spec.repo} has"), catalog.read() as session:
        before = publications.find_newest(session, spec.repo)
    with convert_read_errors(f"what {spec.model} would publish"):
        preview = build_preview(catalog, spec)
    return preview, before.revision if before else None, token_is_set()


def save_card(catalog: Catalog, spec: PublishSpec) -> str | None:
    """Write an edited card to a file, so that the command line can publish it as well; None if it was not edited."""
    from ....store.atomic_files import write_atomically

    text = spec.card
    if text is None:
        return None
    folder = catalog.home.root / "cards"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{re.sub('[^A-Za-z0-9_.-]', '-', spec.repo)}.md"

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    write_atomically(path, write, private=True)
    return str(path)


def submit_publication(catalog: Catalog, spec: PublishSpec) -> str:
    """Draw the pictures that go with it, as the command does, and start the job."""
    from ...actions.publish import add_pictures

    job = control.submit(catalog, add_pictures(catalog, spec), CPU)
    return f"job {job.id} queued"
