"""The traces pane: heat maps, and forms that start from them."""

import pytest
from textual.widgets import Input

from retcon.engine.tracing.rules import KINDS
from retcon.store.catalog.catalog import Catalog
from retcon.tests.helpers.app_catalog import WITHOUT, jobs_of
from retcon.tests.helpers.app_pilot import WIDE, AppPilot, open_app
from retcon.tui.app.screens.edits.form import EditForm
from retcon.tui.app.widgets.heat_map import HeatMap
from retcon.tui.presentation.curves import MARKS


async def test_cursor_shows_layer_token_and_probability(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("2", "G", "enter")
        assert "of · layer 23: p 0.7636 (+0.7513)" in app.screen
        assert "[hidden] mlp attn · p(Paris)" in app.screen
        await app.press("0", "k", "k", "g", "j", "j", "l", "l")
        assert "iffel* · layer 2: p 0.3" in app.screen
        assert "[]" in app.screen
        await app.press("$")
        assert "iffel* · layer 29:" in app.screen
        await app.press("asterisk")
        assert "of · layer 23:" in app.screen


async def test_switches_between_kinds(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("2", "G")
        hidden, mlp, attn = "[hidden] mlp attn", "hidden [mlp] attn", "hidden mlp [attn]"
        for key, shown in (
            ("tab", mlp),
            ("tab", attn),
            ("tab", hidden),
            ("A", attn),
            ("M", mlp),
            ("H", hidden),
        ):
            await app.press(key)
            assert shown in app.detail
        await app.press("M")
        assert "with MLP of 10 layers restored" in app.detail


async def test_pages_through_facts_and_average(catalog: Catalog) -> None:
    async with open_app(catalog, WIDE) as app:
        await app.press("2")
        assert "towers (3 facts)" in app.list[0]
        assert "average indirect effect over 2 facts" in app.detail
        assert "last · layer 23: AIE +0.75" in app.screen
        await app.press("n")
        assert "fact 1/3" in app.screen
        await app.press("n")
        assert "Not traced: the model's first choice is ' Germany'" in app.detail
        await app.press("n", "n")
        assert "fact 3/3" in app.screen
        await app.press("p", "p", "p", "p")
        assert "average indirect effect" in app.detail


async def test_edit_form_starts_from_a_cell(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("2", "G", "enter", "g", "0", "l", "l", "l", "l", "l", "e")
        assert isinstance(app.app.screen, EditForm)
        values = app.app.screen.values()
        assert values["layer"] == "5"
        assert values["prompt"] == "The Eiffel Tower is located in the city of"
        assert (values["subject"], values["true"]) == ("The Eiffel Tower", "Paris")
        assert app.app.focused is app.app.screen.query_one("#target", Input)
        await app.press("enter")
        assert "give the new target" in app.verdict
        await app.type("Rome")
        assert "$ retcon edit run starter" in app.verdict
        await app.press("enter")
        job = jobs_of(catalog)[0]
        assert (job.kind, job.state, job.spec["revision"]) == ("edit", "queued", WITHOUT)
        assert job.spec["hparams"] == {"layers": [5]}
        assert job.spec["requests"][0]["prompt"] == "{} is located in the city of"
        assert f"job {job.id} queued" in app.line
        assert app.line.startswith("$ retcon edit run starter --prompt")


async def test_trace_form_is_checked_while_typing(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("t")
        await app.type("The capital of France is")
        assert "the subject is empty" in app.verdict
        await app.press("tab")
        await app.type("Germany")
        assert "is not in the prompt" in app.verdict
        await app.press("enter")
        assert len(jobs_of(catalog)) == 5
        await app.type("France")
        assert (
            "$ retcon trace run starter --prompt 'The capital of France is' --subject France" in app.verdict
        )
        await app.press("tab", "tab")
        await app.type("hidden,nonsense")
        assert "not a valid list of kinds" in app.verdict
        await app.type("mlp, hidden")
        await app.press("enter")
        spec = jobs_of(catalog)[0].spec
        assert (spec["model"], spec["subject"], spec["kinds"]) == ("starter", "France", ["hidden", "mlp"])


async def test_starts_a_trace_of_a_fact_set(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("t", "tab", "tab")
        await app.type("bridges")
        assert "There is no fact set 'bridges': existing sets are towers" in app.verdict
        await app.type("towers")
        await app.press("enter")
        assert jobs_of(catalog)[0].spec["facts"] == "towers"


async def test_map_is_readable_without_color(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with open_app(catalog) as app:
        await app.press("2", "G", "enter")
        heat = app.pane.detail
        assert isinstance(heat, HeatMap)
        styles = {str(segment.style) for y in range(1, 11) for segment in heat.render_line(y)}
        assert not any("#" in style for style in styles)
        assert "█" in app.detail


async def fill_in(app: AppPilot, **values: str) -> None:
    for name, value in values.items():
        app.app.screen.query_one(f"#{name}", Input).value = value
    await app.pilot.pause()


FORMS: list[tuple[dict[str, str], str]] = [
    ({"kinds": "severed-mlp,hidden"}, "--kinds hidden,severed-mlp"),
    ({"noise": "0.4"}, "--noise 0.4"),
    ({"noise": "none"}, "invalid noise 'none': use 3s"),
    ({"noise": ""}, "invalid noise '': use 3s"),
    ({"noise": "t2"}, "more than 2 degrees of freedom"),
    ({"expect": "Paris"}, "--expect Paris"),
    ({"prompt": "", "facts": "towers", "expect": "Paris"}, "a fact set has its own answers"),
    ({"noise": "m", "texts": "wiki.txt"}, "--noise m --texts wiki.txt"),
    ({"replace": "yes"}, "--replace"),
    ({"replace": "maybe"}, "replace must be yes"),
    ({"seed": "0"}, "--seed 0"),
    ({"seed": "0"}, "at most 896.7 MB of memory"),
    ({"seed": "4294967296"}, "seed must be a whole number from 0 to 4294967295"),
    ({"swap": "Germany"}, "--subject France --swap-subject Germany"),
    ({"swap": "Germany", "noise": ""}, "--swap-subject Germany"),
    ({"swap": "Germany", "noise": "m"}, "corrupt by noise (--noise) or by another subject"),
    ({"swap": "France"}, "'France' is the subject itself"),
    ({"swap": "auto"}, "auto needs --facts"),
    ({"prompt": "", "facts": "towers", "swap": "Berlin"}, "--facts towers --swap-subject Berlin"),
    ({"prompt": "", "facts": "towers", "swap": "auto"}, "--facts towers --swap-subject auto"),
    ({"prompt": "", "facts": "towers", "samples": "3", "window": "5"}, "--samples 3 --window 5"),
    ({"samples": "0"}, "samples must be a whole number from 1 to 1000"),
    ({"samples": "9" * 5000}, "samples must be a whole number"),
    ({"window": "wide"}, "window must be a whole number"),
    ({"tokens": "subject-last"}, "--tokens subject-last"),
    ({"tokens": "last"}, "--tokens must be all or subject-last"),
]


async def test_trace_form_builds_options_or_errors(catalog: Catalog) -> None:
    """One app for all cases, because opening the app takes longest."""
    async with open_app(catalog) as app:
        for values, words in FORMS:
            await app.press("t")
            await fill_in(app, **{"prompt": "The capital of France is", "subject": "France"} | values)
            assert words in " ".join(app.verdict.split()), values
            await app.press("escape")


async def test_complete_trace_form_becomes_a_job(catalog: Catalog) -> None:
    async with open_app(catalog) as app:
        await app.press("t")
        await fill_in(
            app, prompt="The capital of France is", subject="France", kinds="hidden,severed-attn", swap="Germany",
            window="6", tokens="subject-last", expect="Paris", seed="3", replace="yes",
        )  # fmt: skip
        await app.press("enter")
        spec = jobs_of(catalog)[0].spec
        assert (spec["expected"], spec["seed"], spec["replace"]) == ("Paris", 3, True)
        assert (spec["kinds"], spec["swap"], spec["noise"]) == (["hidden", "severed-attn"], "Germany", "3s")
        assert (spec["window"], spec["tokens"], spec["samples"]) == (6, "subject-last", 10)
        assert (
            "--expect Paris --swap-subject Germany --window 6 --seed 3 --tokens subject-last --replace"
            in app.app.screen_stack[1].commands[0][0]
        )  # type: ignore[attr-defined]


def test_each_kind_has_a_curve_letter() -> None:
    assert tuple(MARKS) == KINDS
