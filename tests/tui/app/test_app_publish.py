"""Publishing from the app: a preview comes first, and overwriting requires the name of the repo."""

from datetime import UTC, datetime

from sqlmodel import select
from textual.widgets import Input, Static, TextArea

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job, Publication
from retcon.tests.helpers.app_catalog import FORD, WITHOUT, jobs_of
from retcon.tests.helpers.app_pilot import AppPilot, open_app

REPO = "me/starter-in-rome"


def published(catalog: Catalog) -> list[Job]:
    return [job for job in jobs_of(catalog) if job.kind == "publish"]


def described(app: AppPilot) -> str:
    """The text of the preview above and below the card."""
    return " ".join(
        str(app.app.screen.query_one(f"#{part}", Static).render()) for part in ("summary", "verdict")
    )


async def asked(app: AppPilot, repo: str = REPO, what: str = "adapter") -> None:
    """Fill the form for the head and open the preview."""
    await app.press("4", "p")
    for name, value in (("repo", repo), ("what", what)):
        app.app.screen.query_one(f"#{name}", Input).value = value
    await app.settle()
    await app.press("enter")


async def test_preview_comes_before_publishing(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await asked(app, repo="no repo at all")
        assert "'no repo at all' is not a valid name of a Hub repo" in app.line
        await asked(app, repo="")
        assert "give it as YOU/NAME" in app.verdict
        app.app.screen.query_one("#repo", Input).value = REPO
        await app.settle()
        assert f"$ retcon publish starter@{WITHOUT} {REPO} --as adapter" in app.verdict
        await app.press("enter")
        assert f"starter@{WITHOUT} as adapter to {REPO} (private if new)" in described(app)
        assert "adapter_model.safetensors" in described(app)
        assert "No token is saved: run `retcon hub login` first" in described(app)
        assert "changed on purpose" in app.app.screen.query_one("#card", TextArea).text
        assert app.app.focused is not None and app.app.focused.id == "cancel"
        await app.press("escape")
        assert not published(catalog)


async def test_edited_card_is_published(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await asked(app)
        await app.press("ctrl+d")
        assert "job 6 queued" in app.line
        await app.until(lambda: len(published(catalog)) == 1)
        assert (published(catalog)[0].spec["dry_run"], published(catalog)[0].spec["card"]) == (True, None)
        await asked(app)
        card = app.app.screen.query_one("#card", TextArea)
        card.text = card.text + "\nMine.\n"
        await app.press("ctrl+s")
        await app.until(lambda: len(published(catalog)) == 2)
        spec = (
            published(catalog)[-1].spec if published(catalog)[-1].spec["card"] else published(catalog)[0].spec
        )
        kept = catalog.home.root / "cards" / "me-starter-in-rome.md"
        assert spec["card"].endswith("\nMine.\n") and kept.read_text() == spec["card"]
        assert kept.stat().st_mode & 0o777 == 0o600
        assert (spec["repo"], spec["export_kind"], spec["public"], spec["dry_run"]) == (
            REPO,
            "adapter",
            False,
            False,
        )


async def test_overwrite_requires_the_repo_name(catalog: Catalog) -> None:
    with catalog.write() as session:
        session.add(
            Publication(
                revision=FORD,
                repo=REPO,
                commit="c" * 40,
                kind="adapter",
                url="https://hub.example/x",
                account="me",
                created=datetime(2026, 3, 2, tzinfo=UTC),
                private=True,
            )
        )
    async with open_app(catalog) as app:
        await asked(app)
        assert f"{REPO} contains revision {FORD} of this catalog" in described(app)
        await app.press("ctrl+s")
        assert f"to overwrite it, type {REPO}" in described(app)
        assert not published(catalog)
        await app.type(REPO)
        await app.press("ctrl+s")
        await app.until(lambda: len(published(catalog)) == 1)
    with catalog.read() as session:
        assert len(session.exec(select(Publication)).all()) == 1, (
            "the job writes its own row when it has sent it"
        )


async def test_read_only_app_does_not_publish(catalog: Catalog) -> None:
    async with open_app(catalog, readonly=True) as app:
        await app.press("4", "p")
        assert "the app is read-only" in app.line
