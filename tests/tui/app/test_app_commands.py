"""Commands that the app shows are valid command lines; history graphs look like git's."""

import shlex

import click
import pytest

from retcon.engine.jobs.specs import EditSpec, ModelSpec, TraceSpec
from retcon.tui.cli.main import cli
from retcon.tui.cli_equivalent import add_model, command, run_edit, run_trace
from retcon.tui.presentation.history_graph import draw_graph

REQUEST = {"subject": "O'Hara", "prompt": "{} is in", "target_new": "Rome", "target_true": "Paris"}

UNUSUAL = TraceSpec(
    "m", prompt="Rome is in", subject="Rome", expected="Italy", kinds=["severed-mlp"], samples=3, noise="t3",
    window=5, seed=7, tokens="subject-last", replace=True, texts="file.jsonl",
)  # fmt: skip


@pytest.mark.parametrize(
    "cli_equivalent",
    [
        add_model(ModelSpec("org/name", "mine")),
        run_trace(TraceSpec("m", prompt='She said "no"; $HOME', subject="She", kinds=["mlp"]), "m@base"),
        run_trace(TraceSpec("m", facts="two words"), "m"),
        run_trace(UNUSUAL, "m"),
        run_trace(TraceSpec("m", prompt="Rome is in", subject="Rome", swap="O'Hara"), "m"),
        command("trace", "plot", 1, "--kind", "severed-mlp", "--fact", 0, "--out", "trace-1.png"),
        command("trace", "plot", 1, "--effects"),
        command("trace", "locate", 1),
        run_edit(EditSpec("m", [REQUEST], method="r-rome", hparams={"layers": [5]}), "m@base"),
        run_edit(EditSpec("m", [REQUEST | {"target_true": None}]), "m"),
        command("model", "show", "m"),
        command("trace", "show", 1),
        command("covariance", "show", 1),
        command("history", "m"),
        command("rollback", "m", "5e130e1388"),
        command("revert", "m", "5e130e1388"),
        command("eval", "run", "m@5e130e1388"),
        command("job", "show", 1),
        command("job", "cancel", 1),
        command("job", "resume", 1),
        command("job", "remove", 1),
        command("model", "remove", "m"),
        command("undo", "m"),
        command("redo", "m"),
        command("ask", "m@5e130e1388", "Rome is in", "--against", "4021943b39"),
        command("ui", "edits/4021943b39", "--readonly"),
    ],
)
def test_every_cli_equivalent_is_a_command(cli_equivalent: str) -> None:
    name, *words = shlex.split(cli_equivalent)
    assert name == "retcon"
    at: click.Command = cli
    context = click.Context(cli)
    while isinstance(at, click.Group):
        _, found, words = at.resolve_command(context, words)
        assert found is not None
        at = found
    at.make_context(at.name, list(words))  # raises UsageError for an unknown or missing option or argument


def test_cli_equivalents_match_their_job() -> None:
    spec = TraceSpec("m", prompt="The capital of France is", subject="France", kinds=["hidden", "mlp"])
    assert run_trace(spec, "m") == (
        "retcon trace run m --prompt 'The capital of France is' --subject France --kinds hidden,mlp"
    )
    assert run_trace(UNUSUAL, "m") == (
        "retcon trace run m --prompt 'Rome is in' --subject Rome --kinds severed-mlp --expect Italy --noise t3 "
        "--texts file.jsonl --samples 3 --window 5 --seed 7 --tokens subject-last --replace"
    )
    assert run_edit(EditSpec("m", [REQUEST], hparams={"layers": [5]}), "m") == (
        """retcon edit run m --prompt '{} is in' --subject 'O'"'"'Hara' --target Rome --true Paris --method r-rome """
        "--layer 5"
    )


@pytest.mark.parametrize(
    ("revisions", "lines"),
    [
        ([], []),
        ([("b", "a"), ("a", None)], ["●", "●"]),
        ([("c", "a"), ("b", "a"), ("a", None)], ["●", "│ ●", "●─╯"]),
        ([("d", "b"), ("c", "b"), ("b", "a"), ("a", None)], ["●", "│ ●", "●─╯", "●"]),
        (
            [("e", "a"), ("d", "b"), ("c", "a"), ("b", "a"), ("a", None)],
            ["●", "│ ●", "│ │ ●", "│ ● │", "●─┴─╯"],
        ),
        ([("z", "not read"), ("y", "not read")], ["●", "│ ●"]),
    ],
)
def test_history_graph(revisions: list[tuple[str, str | None]], lines: list[str]) -> None:
    assert draw_graph(revisions, "●" * len(revisions)) == lines
