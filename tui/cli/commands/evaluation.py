"""`retcon eval`: evaluate a revision, and compare evaluations."""

from dataclasses import asdict
from functools import partial
from typing import Any

import click
from sqlmodel import col, select

from ....engine.evaluation.metrics import METRICS
from ....engine.jobs.comparison import compare_evaluations
from ....engine.jobs.specs import SUITES, EvaluationSpec
from ....store.catalog.tables import Evaluation, Model
from ....store.errors import NotFound
from ...actions.edit import build_evaluation_spec
from ...presentation.text import sanitize
from .. import options as opts
from ..follow import run_job
from ..output import print_fields, print_json, print_list, print_table
from ..records import to_record

evaluation = opts.new_group("eval")


@evaluation.command()
@opts.target_argument
@click.option(
    "--facts",
    help="Evaluate on this fact set. Default: the requests of the revision's edits.",
)  # fmt: skip
@click.option(
    "--requests-of", metavar="REV",
    help="Evaluate on the requests of this revision's edits, to compare the same requests before and after.",
)  # fmt: skip
@click.option(
    "--suite", type=click.Choice(SUITES), default="standard", show_default=True,
    help="quick: teacher-forced scores. standard: also free generation, chat, KL and retention. "
    "full: also fluency and perplexity.",
)  # fmt: skip
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 500), default=20, show_default=True,
    help="Length of free generation.",
)  # fmt: skip
@click.option(
    "--texts", default="held-out", show_default=True, metavar="SOURCE",
    help="Texts for KL and perplexity. held-out: shipped texts that no covariance uses. "
    "Other sources: see `retcon covariance run`.",
)  # fmt: skip
@click.option(
    "--seed", type=opts.SEED, default=1, show_default=True, help="Seed of sampling and of the intervals."
)
@opts.job_options
def run(job_options: opts.JobOptions, **options: Any) -> None:
    """Evaluate a revision."""
    catalog = opts.open_catalog()
    spec = build_evaluation_spec(catalog, EvaluationSpec(**options))
    job = run_job(catalog, spec, job_options)
    with catalog.read() as session:
        result = session.get_one(Evaluation, job.result["evaluation"])
    if job_options.as_json:
        print_json(to_record(result, spec.model))
    else:
        print_evaluation(spec.model, result)


@evaluation.command("list")
@opts.json_option
def list_(as_json: bool) -> None:
    """List the evaluations, newest first."""
    with opts.open_catalog().read() as session:
        rows = session.exec(
            select(Evaluation, Model.name).join(Model).order_by(col(Evaluation.id).desc())
        ).all()
    scores: dict[str, Any] = {name: partial(_value, name) for name in ("S", "ES", "PS", "NS", "FE", "FP")}
    print_list(
        "evaluations",
        [to_record(row, name) | {"cases": len(row.cases)} for row, name in rows],
        "id model revision cases S ES PS NS FE FP created",
        "No evaluations yet. Run one: retcon eval run MODEL",
        as_json=as_json,
        **scores,
    )


def _value(name: str, record: dict[str, Any]) -> str:
    return f"{record['metrics'][name]['value']:.3f}" if name in record["metrics"] else "-"


@evaluation.command()
@opts.id_argument
@opts.json_option
def show(id: int, as_json: bool) -> None:
    """Show one evaluation with its protocol."""
    name, result = _load(id)
    print_json(to_record(result, name)) if as_json else print_evaluation(name, result)


def _load(id: int) -> tuple[str, Evaluation]:
    """An evaluation and its model's name."""
    with opts.open_catalog().read() as session:
        result = session.get(Evaluation, id)
        if result is None:
            raise NotFound(f"evaluation {id} does not exist; `retcon eval list` lists the evaluations")
        return session.get_one(Model, result.model_id).name, result


@evaluation.command("compare")
@click.argument("a", type=opts.ROW_ID)
@click.argument("b", type=opts.ROW_ID)
@opts.json_option
def compare_(a: int, b: int, as_json: bool) -> None:
    """Compare evaluations A and B case by case. Both need the same protocol (evaluation settings)."""
    (model_a, one), (model_b, other) = _load(a), _load(b)
    changes = compare_evaluations(one, other)
    names = [f"{model_a}@{one.revision}", f"{model_b}@{other.revision}"]
    if as_json:
        metrics = {
            name: asdict(change) | {"difference": change.difference} for name, change in changes.items()
        }
        print_json({"a": {"evaluation": a, "of": names[0]}, "b": {"evaluation": b, "of": names[1]},
                    "metrics": metrics})  # fmt: skip
        return
    click.echo(f"{a}: {names[0]}, {b}: {names[1]}. The interval is that of the paired difference.\n")
    rows = [
        (name, f"{change.a:.3f}", f"{change.b:.3f}", f"{change.difference:+.3f}",
         _interval(change.low, change.high, change.count), change.count, METRICS[name].better, METRICS[name].text)
        for name, change in changes.items()
    ]  # fmt: skip
    columns = ("", f"{a}", f"{b}", "change", "95 % interval", "n", "better", "meaning")
    print_table(columns, rows, "The evaluations have no metric in common.", cut="meaning")


@evaluation.command()
@opts.json_option
def metrics(as_json: bool) -> None:
    """List the metrics: meaning, range, and the fields of a fact that each metric requires."""
    if as_json:
        print_json({"metrics": {name: asdict(meaning) for name, meaning in METRICS.items()}})
        return
    rows = ((n, m.range, m.better, m.over, m.needs, m.text) for n, m in METRICS.items())
    print_table(("", "range", "better", "mean over", "needs", "meaning"), rows, "", cut="meaning")


def print_evaluation(model: str, evaluation: Evaluation) -> None:
    """Print the metrics with intervals and meanings, the first completions, and the protocol."""
    click.echo(
        f"Evaluation {evaluation.id} of {model}@{evaluation.revision}, cases: {len(evaluation.cases)}\n"
    )
    rows = []
    for name, meaning in METRICS.items():
        if metric := evaluation.metrics.get(name):
            interval = _interval(metric["low"], metric["high"], metric["count"])
            rows.append(
                (name, f"{metric['value']:.3f}", interval, metric["count"], meaning.better, meaning.text)
            )
    print_table(
        ("", "value", "95 % interval", "n", "better", "meaning"),
        rows,
        "No case has the fields that a metric needs.",
        cut="meaning",
    )
    if evaluation.retention:
        click.echo()
        retention = ((r["edit"], r["requests"], r["first_choice"], r["free"]) for r in evaluation.retention)
        print_table(("earlier edit", "requests", "still first choice", "in free generation"), retention, "")
    click.echo()
    for case in evaluation.cases[:5]:
        _print_case(case)
    click.echo("Protocol:")
    print_fields(list(evaluation.protocol.items()))


def _interval(low: float | None, high: float | None, count: int) -> str:
    return "" if low is None or count < 2 else f"[{low:.3f}, {high:.3f}]"


def _print_case(case: dict[str, Any]) -> None:
    """Print the completions of one case, if the suite generated any."""
    if case["completion"] is None:
        return
    request = case["case"]
    click.echo(f"{sanitize(request['prompt'])} …{sanitize(case['completion'])}")
    questions = {
        "~": zip(request["eval_paraphrases"], case["paraphrase_completions"], strict=True),
        "=": zip((one["prompt"] for one in request["neighbors"]), case["neighbor_completions"], strict=True),
        "?": zip(
            (one["prompt"] for one in request["portability"]), case["portability_completions"], strict=True
        ),
        "¬": zip(request["negations"], case["negation_completions"], strict=True),
    }
    for mark, pairs in questions.items():
        for prompt, completion in pairs:
            click.echo(f"  {mark} {sanitize(prompt)} …{sanitize(completion)}")
    if case["reply"] is not None:
        click.echo(f"  > {sanitize(case['reply'])}")
    click.echo()
