"""Actions that write: each asks if necessary, makes its change, and shows its command."""

from pathlib import Path

import numpy as np
from textual.widgets import Button, Input

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Model, Revision
from retcon.store.history import history
from retcon.tests.helpers.app_catalog import BASE, FORD, ROME, WITHOUT, head_of, jobs_of
from retcon.tests.helpers.app_pilot import WIDE, open_app
from retcon.tui.app.screens.base.confirm import Confirm


async def test_adds_a_model(empty: Catalog) -> None:
    async with open_app(empty) as app:
        await app.press("a")
        await app.type("HuggingFaceTB/SmolLM2-135M")
        assert "$ retcon model add HuggingFaceTB/SmolLM2-135M --name SmolLM2-135M" in app.verdict
        await app.press("tab")
        await app.type("two words")
        await app.press("enter")
        assert "not a valid model name" in app.verdict
        await app.type("small")
        await app.press("enter")
        job = jobs_of(empty)[0]
        assert (job.kind, job.spec["source"], job.spec["name"]) == (
            "model",
            "HuggingFaceTB/SmolLM2-135M",
            "small",
        )
        await app.press("escape", "5")
        assert "queued" in app.list[0]


async def test_form_can_be_cancelled(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("4", "e", "escape")
        assert app.app.focused is app.pane.rows
        assert len(jobs_of(catalog)) == 5


async def test_rollback_asks_with_cancel_focused(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("4", "j", "b")
        assert isinstance(app.app.screen, Confirm)
        assert isinstance(app.app.focused, Button)
        assert app.app.focused.id == "cancel"
        assert f"$ retcon rollback starter {FORD}" in app.screen
        await app.press("enter")
        assert head_of(catalog) == WITHOUT
        await app.press("b", "n")
        assert head_of(catalog) == WITHOUT
        assert len(jobs_of(catalog)) == 5


async def test_rollback_moves_the_head_and_verifies(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("4", "G", "b", "y")
        assert head_of(catalog) == BASE
        job = jobs_of(catalog)[0]
        assert (job.kind, job.spec["revision"]) == ("verify", BASE)
        await app.until(lambda: "base, head" in app.list[4])
        assert "rolled back" in app.list[1]
        assert "$ retcon rollback starter" in app.line
        await app.press("b")
        assert "is already the head of starter" in app.line


async def test_reverts_an_edit(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("4", "j", "j", "j", "x")
        assert "already reverted" in app.line
        await app.press("k", "x")
        assert "is not an ancestor" in app.line
        await app.press("k", "x", "tab", "enter")
        job = jobs_of(catalog)[0]
        assert (job.kind, job.spec["reverts"]) == ("revert", FORD)
        await app.press("at")
        assert f"$ retcon revert starter {FORD}" in app.screen
        assert f"job {job.id} queued" in app.screen


async def test_revert_warns_of_dependent_edits(catalog: Catalog) -> None:
    with catalog.write() as session:
        ford = session.get_one(Revision, FORD)
        ford.requests = session.get_one(Revision, ROME).requests
        session.get_one(Model, 1).head = FORD
    async with open_app(catalog) as app:
        await app.press("4", "j", "x")
        assert f"Revert {FORD} of" in app.screen and "later edit of this subject" not in app.screen
        await app.press("escape", "j", "j", "x")
        assert f"Revert {ROME} of" in app.screen
        assert "1 later edit of this subject depends on this one." in " ".join(app.screen.split())


async def test_evaluates_a_revision(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("4", "s")
        job = jobs_of(catalog)[0]
        assert (job.kind, job.spec["revision"]) == ("evaluation", WITHOUT)
        assert f"$ retcon eval run starter@{WITHOUT}" in app.line


async def test_extends_a_covariance(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("3")
        assert "0.031" in app.list[0]
        assert "doubling to 38,533 tokens" in " ".join(app.detail.split())
        await app.press("t")
        assert "$ retcon covariance extend 1 --max-tokens 90126" in app.verdict
        await app.type("2")
        assert "above 0 and at most 1" in app.verdict
        await app.type("0.02")
        await app.press("up")
        await app.type("45063")
        assert "has 45,063 tokens already" in app.verdict
        await app.type("80,000")
        await app.press("enter")
        job = jobs_of(catalog)[0]
        assert (job.kind, job.spec["extends"], job.spec["max_tokens"], job.spec["tolerance"]) == (
            "covariance",
            [1],
            80_000,
            0.02,
        )
        assert "extend 1 --max-tokens 80000 --until-" in app.line


async def test_imports_a_covariance(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "layer5.npz"
    keys = np.random.default_rng(0).normal(size=(2000, 1536))
    np.savez(file, **{"mom2.count": np.array(2000), "mom2.mom2": keys.T @ keys})
    async with open_app(catalog) as app:
        await app.press("3", "i")
        await app.type(str(tmp_path / "none.npz"))
        assert "does not exist" in app.verdict
        await app.type(str(file))
        await app.press("tab")
        await app.type("starter")
        await app.press("tab")
        await app.type("5")
        await app.press("enter")
        await app.until(lambda: "covariance 2 imported" in app.line)
        await app.until(lambda: len(app.list) == 2)
        assert "2.0k" in app.list[0]
        await app.press("g", "t")
        assert "was imported" in app.line


async def test_resumes_and_cancels_jobs(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("5", "j", "j", "r")
        assert jobs_of(catalog)[2].state == "queued"
        assert app.line.startswith("$ retcon job resume 3")
        await app.until(lambda: "queued" in app.list[2])
        await app.press("K")
        assert "Cancel job 3 (trace: starter · towers)?" in app.screen
        assert app.app.focused is not None
        assert app.app.focused.id == "cancel"
        await app.press("y")
        assert jobs_of(catalog)[2].state == "cancelled"
        await app.press("G", "K")
        assert "only a queued, waiting or running job" in app.line
        await app.press("r")
        assert "only an interrupted, paused, failed or cancelled job" in app.line


async def test_undo_and_redo_follow_the_record_of_moves(catalog: Catalog) -> None:
    """Undo and redo also apply to moves made by the command line."""
    with catalog.write() as session:
        model = session.get_one(Model, 1)
        history.move_head(session, model, history.find_revision(session, model, ROME), "rollback")
    async with open_app(catalog) as app:
        await app.press("4", "z")
        assert "Undo the rollback" in app.words
        assert f"to {WITHOUT}" in app.words
        assert app.app.focused is not None
        assert app.app.focused.id == "cancel"
        await app.press("y")
        assert head_of(catalog) == WITHOUT
        assert app.line.startswith("$ retcon undo starter")
        await app.press("z", "y")
        assert head_of(catalog) == FORD, "the revert is taken back, not the undo"
        await app.press("Z", "y", "Z", "y")
        assert head_of(catalog) == ROME
        await app.press("Z")
        assert "nothing to redo" in app.line
        assert [job.kind for job in jobs_of(catalog)[:4]] == ["verify"] * 4


async def test_branch_starts_at_the_current_row(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("4", "j", "j", "j", "E")
        await app.type("The capital of France is")
        assert app.app.screen.query_one("#model", Input).value == f"starter@{ROME}"


async def test_read_only_app_changes_nothing(catalog: Catalog) -> None:
    before = head_of(catalog)
    async with open_app(catalog, readonly=True) as app:
        assert "read-only" in app.screen
        for words in ("1 a", "1 t", "2 t", "2 e", "2 x", "3 t", "3 i", "4 e", "4 j b", "4 x", "4 s", "4 z", "4 Z",
                      "5 K", "5 r", "5 R", "5 D", "1 D"):  # fmt: skip
            keys = words.split()
            await app.press(*keys)
            assert len(app.app.screen_stack) == 2, keys
            assert "read-only" in app.line, keys
        await app.press("colon")
        await app.type("job cancel 1")
        await app.press("enter")
        assert "read-only" in app.line
    assert head_of(catalog) == before
    assert len(jobs_of(catalog)) == 5


async def test_marked_jobs_resume_and_cancel_together(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("5", "asterisk", "r")
        assert "resumed jobs 5, 4, 3" in app.line
        assert [job.state for job in jobs_of(catalog)] == ["queued"] * 3 + ["done"] * 2
        await app.press("K")
        assert "Cancel job 5 (export" in app.words
        assert app.app.focused is not None
        assert app.app.focused.id == "cancel"
        await app.press("y")
        assert "3 jobs cancelled" in app.line
        assert [job.state for job in jobs_of(catalog)] == ["cancelled"] * 3 + ["done"] * 2


async def test_unknown_home_folder_is_reported_while_typing(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("3", "i")
        await app.type("~nobody-here/x.npz")
        assert "~nobody-here has no home folder" in app.verdict
        await app.press("escape", "1", "a")
        await app.type("~nobody-here/model")
        assert "~nobody-here has no home folder" in app.verdict
