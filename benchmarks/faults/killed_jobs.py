"""The jobs that the benchmark kills: a spec of each kind, and the result of a job as text."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlmodel import SQLModel, select

from retcon.engine.jobs import control
from retcon.engine.jobs.settings import sweep_hparams
from retcon.engine.jobs.specs import (
    AskSpec,
    CovarianceSpec,
    EditSpec,
    EvaluationSpec,
    ExportSpec,
    ModelSpec,
    RevertSpec,
    Spec,
    SweepSpec,
    TraceSpec,
    VerifySpec,
)
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import (
    AverageEffect,
    Covariance,
    Evaluation,
    Job,
    Model,
    Revision,
    Sweep,
    SweepTrial,
    TraceResult,
)
from retcon.store.history import history

from ..command_line import CommandLine

_SUBJECTS = ("The Eiffel Tower", "Paris", "Berlin", "Toyota", "France", "Italy", "Rome", "The Camry")
_PROMPTS = ("{} is located in", "The mother tongue of {} is", "{} was born in")
_HPARAMS = {"layers": [1], "v_num_grad_steps": 30, "v_lr": 0.05, "contexts": 2}
_REQUESTS = [
    {"subject": subject, "prompt": _PROMPTS[0], "target_new": target, "target_true": "Paris"}
    for subject in _SUBJECTS
    for target in ("Rome", "Berlin")
]


def build_specs(catalog: Catalog, folder: Path) -> dict[str, Callable[[int], Spec]]:
    """For each kind of job a function from a number to a spec, on a tiny model with a covariance and two edits."""
    source, texts, hparams = folder / "source", folder / "texts.txt", folder / "hparams.json"
    _write_inputs(source, texts, hparams)
    _run_to_end(catalog, ModelSpec(source=str(source), name="tiny"))
    _import_facts(folder)
    collection = CovarianceSpec(model="tiny", layers=[1, 2], texts=str(texts), max_tokens=20_000)
    covariances = _run_to_end(catalog, collection).result["covariances"]
    # Name the covariance: otherwise the edit uses the newest one, which the killed jobs add.
    edit = EditSpec(
        model="tiny",
        requests=_REQUESTS[:1],
        hparams_file=str(hparams),
        revision="base",
        covariance=covariances[0],
    )
    first = _run_to_end(catalog, edit).result["revision"]
    second = _run_to_end(catalog, replace(edit, requests=_REQUESTS[2:3], revision="head")).result["revision"]
    with catalog.read() as session:
        model = session.exec(select(Model).where(Model.name == "tiny")).one()
    sweep_settings = sweep_hparams("r-rome", str(hparams), model, catalog.home)

    def build_revert(_number: int) -> Spec:
        with catalog.write() as session:
            row, revision = session.get_one(Model, model.id), session.get_one(Revision, second)
            history.move_head(session, row, revision, "rollback")
        return RevertSpec(model="tiny", reverts=first)

    return {
        "trace": lambda _n: TraceSpec(model="tiny", revision="base", facts="facts", samples=200),
        "covariance": lambda _n: CovarianceSpec(
            model="tiny", layers=[1, 2, 3], texts=str(texts), max_tokens=300_000, tolerance=1e-9
        ),
        "edit": lambda _n: replace(edit, requests=_REQUESTS),
        "evaluation": lambda _n: EvaluationSpec(model="tiny", revision=first, facts="facts"),
        "ask": lambda _n: AskSpec(model="tiny", prompt="Paris is located in", revisions=["base", first]),
        "verify": lambda _n: VerifySpec(model="tiny", revision=first),
        "sweep": lambda _n: SweepSpec(
            model="tiny",
            requests=_REQUESTS[::4],
            layers=[1, 2],
            hparams=sweep_settings,
            revision="base",
            grid={"v_lr": [0.05, 0.1]},
        ),
        "revert": build_revert,
        "export": lambda n: ExportSpec(model="tiny", folder=str(folder / f"out{n}"), revision=first),
        "model": lambda n: ModelSpec(source=str(source), name=f"copy{n}"),
    }


def _write_inputs(source: Path, texts: Path, hparams: Path) -> None:
    """Write a tiny model, texts for covariances, and settings of an edit."""
    from retcon.tests.helpers.families import tiny_model
    from retcon.tests.helpers.tiny_tokenizers import word_tokenizer

    tiny_model("llama").save_pretrained(source)
    word_tokenizer(start=True).save_pretrained(source)
    words = ["The", "Eiffel", "Tower", "is", "located", "in", "the", "city", "of", "Paris", "Rome", "Berlin", "France",
             "Italy", "born"]  # fmt: skip
    lines = (" ".join(words[(3 * n + n // 7 * i) % len(words)] for i in range(60)) for n in range(8000))
    texts.write_text("\n".join(lines))
    hparams.write_text(json.dumps(_HPARAMS))


def _import_facts(folder: Path) -> None:
    facts = [
        {"subject": subject, "prompt": prompt, "target_new": "Rome", "target_true": "Paris"}
        for subject in _SUBJECTS
        for prompt in _PROMPTS
    ]
    (folder / "facts.json").write_text(json.dumps(facts))
    CommandLine(folder / "home")("facts", "import", folder / "facts.json", "--name", "facts")


def _run_to_end(catalog: Catalog, spec: Spec) -> Job:
    job = control.follow(catalog, control.submit(catalog, spec).id or 0)
    assert job.state == "done", job.error
    return job


def format_result(catalog: Catalog, job: Job) -> str:
    """The result of a job as text, without ids, names, times and the order of rows, which differ between two runs."""
    result: dict[str, Any] = job.result
    parts: list[Any] = []
    with catalog.read() as session:

        def add_rows(table: type[SQLModel], column: Any, id: int | str, *excluded: str) -> None:
            for row in session.exec(select(table).where(column == id)):
                parts.append(row.model_dump(exclude={"id", "created", column.key, *excluded}))

        if "trace" in result:
            add_rows(TraceResult, TraceResult.trace_id, result["trace"])
            add_rows(AverageEffect, AverageEffect.trace_id, result["trace"])
        elif "sweep" in result:
            add_rows(SweepTrial, SweepTrial.sweep_id, result["sweep"], "seconds")
            # Several covariances are equal; the newest of them depends on other jobs.
            add_rows(Sweep, Sweep.id, result["sweep"], "covariances")
        elif "evaluation" in result:
            add_rows(Evaluation, Evaluation.id, result["evaluation"])
        elif "covariances" in result:
            for id in result["covariances"]:
                add_rows(Covariance, Covariance.id, id)
        elif "name" in result:
            add_rows(Model, Model.name, result["name"], "path", "head", "source")
        elif "revision" in result and "folder" not in result:
            add_rows(Revision, Revision.id, result["revision"])
        elif "folder" in result:
            files = sorted(path for path in Path(result["folder"]).iterdir() if path.suffix == ".safetensors")
            parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        else:
            parts.append(result)
    assert parts, result
    return "\n".join(sorted(json.dumps(part, sort_keys=True, default=str) for part in parts))
