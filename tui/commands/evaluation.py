"""`retcon eval`: did the edit hold, in other words too, and did the neighbours stay?"""

import click
from sqlmodel import col, select

from ...engine.jobs import EvaluationSpec
from ...store import facts as fact_sets
from ...store import history
from ...store.errors import NotFound
from ...store.tables import Evaluation, Model
from ..following import run as run_job
from ..options import ROW_ID, SEED, job_options, json_option, open_catalog
from ..output import print_json, print_table
from ..plain import plain
from ..records import evaluation_record

MEANINGS = {
    "ES": "efficacy: new target likelier than true, on the prompt",
    "PS": "the same on paraphrases",
    "NS": "neighbourhood: their true answer likelier than the new target",
    "S": "harmonic mean of ES, PS, NS",
    "EM": "efficacy magnitude: p(new) - p(true)",
    "PM": "the same on paraphrases",
    "NM": "p(true) - p(new) on neighbours",
    "EA": "every target token first choice, teacher-forced",
    "PA": "the same on paraphrases",
    "NA": "the same for the neighbours' true answers",
    "FE": "free generation begins with the target",
    "FP": "the same on paraphrases",
    "FN": "free generation on neighbours begins with their true answer",
}


@click.group()
def evaluation() -> None:
    """Score a revision, with the protocol beside the numbers."""


@evaluation.command()
@click.argument("target", metavar="MODEL[@REV]")
@click.option(
    "--facts", "fact_set", help="Score on this set; by default on the requests of the revision's own edits."
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="Length of free generation.",
)
@click.option("--seed", type=SEED, default=1, show_default=True, help="Of the bootstrap intervals.")
@job_options
def run(
    target: str,
    fact_set: str | None,
    max_new_tokens: int,
    seed: int,
    as_json: bool,
    detach: bool,
    device: str | None,
) -> None:
    """Evaluate a revision."""
    catalog = open_catalog()
    name, revision = history.parse_target(target)
    with catalog.read() as session:
        found = history.find_revision(session, history.find_model(session, name), revision)
        if fact_set is not None:
            fact_sets.find_fact_set(session, fact_set)
    spec = EvaluationSpec(name, found.id, fact_set, max_new_tokens, seed)
    job = run_job(catalog, spec, device, detach=detach, as_json=as_json)
    if job is None:
        return
    with catalog.read() as session:
        made = session.get_one(Evaluation, job.made["evaluation"])
    print_json(evaluation_record(made, name)) if as_json else print_evaluation(name, made)


@evaluation.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The evaluations of this catalog, newest first."""
    with open_catalog().read() as session:
        rows = session.exec(
            select(Evaluation, Model.name).join(Model).order_by(col(Evaluation.id).desc())
        ).all()
    if as_json:
        print_json(
            {"evaluations": [evaluation_record(e, name) | {"cases": len(e.cases)} for e, name in rows]}
        )
        return
    names = ("S", "ES", "PS", "NS", "FE", "FP")
    print_table(
        ("id", "model", "revision", "cases", *names, "created"),
        (
            (e.id, name, e.revision, len(e.cases), *(_value(e, n) for n in names), e.created)
            for e, name in rows
        ),
        "No evaluations yet. Make one: retcon eval run MODEL",
    )


def _value(evaluation: Evaluation, name: str) -> str:
    return f"{evaluation.metrics[name]['value']:.3f}" if name in evaluation.metrics else "-"


@evaluation.command()
@click.argument("id", type=ROW_ID)
@json_option
def show(id: int, as_json: bool) -> None:
    """One evaluation, with its protocol."""
    with open_catalog().read() as session:
        found = session.get(Evaluation, id)
        if found is None:
            raise NotFound(f"there is no evaluation {id}; `retcon eval list` shows those there are")
        name = session.get_one(Model, found.model_id).name
    print_json(evaluation_record(found, name)) if as_json else print_evaluation(name, found)


def print_evaluation(model: str, evaluation: Evaluation) -> None:
    """The numbers with their intervals and meanings, the first completions, and the protocol."""
    click.echo(
        f"Evaluation {evaluation.id} of {model}@{evaluation.revision}, {len(evaluation.cases)} cases\n"
    )
    rows = []
    for name, meaning in MEANINGS.items():
        if metric := evaluation.metrics.get(name):
            interval = f"[{metric['low']:.3f}, {metric['high']:.3f}]" if metric["count"] > 1 else ""
            rows.append((name, f"{metric['value']:.3f}", interval, metric["count"], meaning))
    print_table(
        ("", "value", "95 % interval", "n", "meaning"),
        rows,
        "No case had what a metric needs.",
        cut="meaning",
    )
    click.echo()
    for case in evaluation.cases[:5]:
        _print_case(case)
    click.echo(
        plain("Protocol: " + "; ".join(f"{key}: {value}" for key, value in evaluation.protocol.items()))
    )


def _print_case(case: dict) -> None:
    asked = case["case"]
    click.echo(f"{plain(asked['prompt'])} …{plain(case['completion'])}")
    for prompt, said in zip(asked["paraphrases"], case["paraphrase_completions"], strict=True):
        click.echo(f"  ~ {plain(prompt)} …{plain(said)}")
    for neighbour, said in zip(asked["neighbours"], case["neighbour_completions"], strict=True):
        click.echo(f"  = {plain(neighbour['prompt'])} …{plain(said)}")
    click.echo()
