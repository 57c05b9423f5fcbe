"""Kill jobs of every kind, and the app, at random moments: no finished work is lost, and results are equal to the bit.

The moment of a kill is uniform over the time of the undisturbed job. So kills hit the start of Python, the loading of
the model, the work, and the writing of the result. A killed job is resumed. After some kills it runs to its end. Its
result is compared with the result of the undisturbed job.
"""

import hashlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlmodel import SQLModel, select

from retcon.engine.jobs import control
from retcon.engine.jobs.locks import is_locked, job_lock_path
from retcon.engine.jobs.reap import reap
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
from retcon.store.home import Home

_KILLS_PER_JOB = 5
# The app is opened and killed beside every fourth job.
_JOBS_PER_APP = 4
_TIMEOUT_SECONDS = 180.0
_SUBJECTS = ("The Eiffel Tower", "Paris", "Berlin", "Toyota", "France", "Italy", "Rome", "The Camry")
_PROMPTS = ("{} is located in", "The mother tongue of {} is", "{} was born in")


@dataclass
class Tally:
    """Counts of kills and of their faults."""

    kills: int = 0
    app_kills: int = 0
    jobs: int = 0
    # Rows that were complete before a kill and missing or different after it.
    lost: int = 0
    stuck: int = 0
    different: int = 0
    corrupt: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        return dict(vars(self))


def run_kills(folder: Path, count: int, seed: int = 1) -> dict[str, Any]:
    """Kill `count` times, on a new home in `folder`. Prints a line for each job."""
    folder.mkdir(exist_ok=True)
    locks = {"RETCON_LOCKS": str(folder)}
    os.environ |= {"RETCON_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"} | locks
    os.environ.pop("HF_TOKEN", None)
    catalog, chance, tally = Catalog.open(Home(folder / "home")), random.Random(seed), Tally()
    specs = _specs(catalog, folder)
    expected, seconds = {}, {}
    for kind, spec in specs.items():
        began = time.monotonic()
        ended = control.follow(catalog, control.submit(catalog, spec(0)).id or 0)
        assert ended.state == "done", f"{kind}: {ended.error}"
        expected[kind], seconds[kind] = _result_text(catalog, ended), time.monotonic() - began
    number = 0
    while tally.kills + tally.app_kills < count:
        for kind, spec in specs.items():
            number += 1
            _kill_one_job(catalog, kind, spec(number), expected[kind], seconds[kind], chance, tally)
            print(f"{tally.kills + tally.app_kills} kills; {kind}: {tally.figures()}", file=sys.stderr)
            if tally.kills + tally.app_kills >= count:
                break
    catalog.close()
    return tally.figures()


def _kill_one_job(
    catalog: Catalog,
    kind: str,
    spec: Spec,
    expected: str,
    seconds: float,
    chance: random.Random,
    tally: Tally,
) -> None:
    """Kill and resume one job several times, then let it end; kill the app beside it."""
    job = control.submit(catalog, spec)
    tally.jobs += 1
    id = job.id or 0
    if tally.jobs % _JOBS_PER_APP == 1:
        _kill_the_app(catalog, id, chance, tally)
    for _ in range(_KILLS_PER_JOB):
        before = _complete_rows(catalog)
        if not _kill(catalog, id, chance.uniform(0, seconds)):
            break
        tally.kills += 1
        tally.by_kind[kind] = tally.by_kind.get(kind, 0) + 1
        now = _complete_rows(catalog)
        tally.lost += sum(now.get(key) != row for key, row in before.items())
        reap(catalog)
        tally.corrupt += not _is_sound(catalog)
        with catalog.read() as session:
            # A kill can hit the process after it wrote its result: there is nothing to resume.
            if session.get_one(Job, id).state == "done":
                break
        control.resume(catalog, id)
    ended = _await_end(catalog, id)
    if ended is None:
        tally.stuck += 1
    elif ended.state != "done" or _result_text(catalog, ended) != expected:
        tally.different += 1
        print(f"{kind}: job {id} is {ended.state}: {ended.error}", file=sys.stderr)


def _kill(catalog: Catalog, id: int, after: float) -> bool:
    """Kill a job's process `after` seconds from now. Returns False if it has ended by then."""
    until = time.monotonic() + after
    while time.monotonic() < until:
        time.sleep(0.02)
    process = _find_process(id)
    with catalog.read() as session:
        if process is None or session.get_one(Job, id).state == "done":
            return False
    os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_locked(job_lock_path(catalog.home, id)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return True


def _find_process(id: int) -> int | None:
    """The process id of a job's worker, before or after it claims the job."""
    import psutil

    for child in psutil.Process().children():
        try:
            words = [] if child.status() == psutil.STATUS_ZOMBIE else child.cmdline()
            if "retcon.engine.jobs.worker" in words and words[-2] == str(id):
                return int(child.pid)
        except psutil.NoSuchProcess:
            continue
    return None


def _kill_the_app(catalog: Catalog, id: int, chance: random.Random, tally: Tally) -> None:
    """Open the app in a new terminal and kill it. The job beside it must keep running."""
    controller, terminal = pty.openpty()
    app = subprocess.Popen(
        [str(Path(sys.executable).with_name("retcon"))],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
    )
    os.close(terminal)
    time.sleep(chance.uniform(0.2, 1.5))
    app.kill()
    app.wait()
    os.close(controller)
    tally.app_kills += 1
    with catalog.read() as session:
        tally.lost += session.get_one(Job, id).state in ("interrupted", "failed")


def _await_end(catalog: Catalog, id: int) -> Job | None:
    until = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < until:
        reap(catalog)
        with catalog.read() as session:
            job = session.get_one(Job, id)
        if job.state in ("done", "failed", "interrupted", "cancelled", "paused"):
            return job
        time.sleep(0.1)
    return None


def _is_sound(catalog: Catalog) -> bool:
    import sqlite3

    with sqlite3.connect(catalog.home.catalog) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return bool(found == ("ok",))


def _complete_rows(catalog: Catalog) -> dict[str, str]:
    """Every complete result in the catalog as text, by table and id."""
    found = {}
    with catalog.read() as session:
        for table in (TraceResult, AverageEffect, Covariance, Revision, SweepTrial, Evaluation):
            for row in session.exec(select(table)):
                values = row.model_dump()
                if values.get("is_complete", True):
                    found[f"{table.__name__} {values['id']}"] = json.dumps(
                        values, sort_keys=True, default=str
                    )
    return found


def _result_text(catalog: Catalog, job: Job) -> str:
    """The result of a job as text, without ids, names, times and the order of rows, which differ between two runs."""
    result, parts = job.result, []
    with catalog.read() as session:

        def rows(table: type[SQLModel], column: Any, id: int, *excluded: str) -> None:
            for row in session.exec(select(table).where(column == id)):
                parts.append(row.model_dump(exclude={"id", "created", column.key, *excluded}))

        if "trace" in result:
            rows(TraceResult, TraceResult.trace_id, result["trace"])
            rows(AverageEffect, AverageEffect.trace_id, result["trace"])
        elif "sweep" in result:
            rows(SweepTrial, SweepTrial.sweep_id, result["sweep"], "seconds")
            # Several covariances are equal; the newest of them depends on other jobs.
            rows(Sweep, Sweep.id, result["sweep"], "covariances")
        elif "evaluation" in result:
            rows(Evaluation, Evaluation.id, result["evaluation"])
        elif "covariances" in result:
            for id in result["covariances"]:
                rows(Covariance, Covariance.id, id)
        elif "name" in result:
            rows(Model, Model.name, result["name"], "path", "head", "source")
        elif "revision" in result and "folder" not in result:
            rows(Revision, Revision.id, result["revision"])
        elif "folder" in result:
            files = sorted(path for path in Path(result["folder"]).iterdir() if path.suffix == ".safetensors")
            parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        else:
            parts.append(result)
    assert parts, result
    return "\n".join(sorted(json.dumps(part, sort_keys=True, default=str) for part in parts))


def _specs(catalog: Catalog, folder: Path) -> dict[str, Callable[[int], Spec]]:
    """For each kind of job a function from a number to a spec, on a tiny model with a covariance and two edits."""
    from retcon.tests.helpers.families import tiny_model
    from retcon.tests.helpers.tiny_tokenizers import word_tokenizer

    source = folder / "source"
    tiny_model("llama").save_pretrained(source)
    word_tokenizer(start=True).save_pretrained(source)
    texts = folder / "texts.txt"
    words = "The Eiffel Tower is located in the city of Paris Rome Berlin France Italy born".split()  # noqa: SIM905
    texts.write_text(
        "\n".join(" ".join(words[(3 * n + n // 7 * i) % len(words)] for i in range(60)) for n in range(8000))
    )
    facts = folder / "facts.json"
    facts.write_text(
        json.dumps(
            [
                {"subject": subject, "prompt": prompt, "target_new": "Rome", "target_true": "Paris"}
                for subject in _SUBJECTS
                for prompt in _PROMPTS
            ]
        )
    )
    settings = {"v_num_grad_steps": 30, "v_lr": 0.05, "contexts": 2}
    requests = [
        {"subject": subject, "prompt": _PROMPTS[0], "target_new": target, "target_true": "Paris"}
        for subject in _SUBJECTS
        for target in ("Rome", "Berlin")
    ]
    _run_to_end(catalog, ModelSpec(source=str(source), name="tiny"))
    _import(facts)
    collected = _run_to_end(
        catalog, CovarianceSpec(model="tiny", layers=[1, 2], texts=str(texts), max_tokens=20_000)
    ).result["covariances"]
    settings_file = folder / "hparams.json"
    settings_file.write_text(json.dumps({"layers": [1]} | settings))
    # Name the covariance: otherwise the edit uses the newest one, which the killed jobs add.
    edit = EditSpec(
        model="tiny",
        requests=requests[:1],
        hparams_file=str(settings_file),
        revision="base",
        covariance=collected[0],
    )
    first = _run_to_end(catalog, edit).result["revision"]
    second = _run_to_end(catalog, replace(edit, requests=requests[2:3], revision="head")).result["revision"]
    with catalog.read() as session:
        model = session.exec(select(Model).where(Model.name == "tiny")).one()
    sweep_settings = sweep_hparams("r-rome", str(settings_file), model, catalog.home)

    def build_revert(_number: int) -> Spec:
        with catalog.write() as session:
            history.move_head(
                session, session.get_one(Model, model.id), session.get_one(Revision, second), "rollback"
            )
        return RevertSpec(model="tiny", reverts=first)

    return {
        "trace": lambda _n: TraceSpec(model="tiny", revision="base", facts="facts", samples=200),
        "covariance": lambda _n: CovarianceSpec(
            model="tiny", layers=[1, 2, 3], texts=str(texts), max_tokens=300_000, tolerance=1e-9
        ),
        "edit": lambda _n: replace(edit, requests=requests),
        "evaluation": lambda _n: EvaluationSpec(model="tiny", revision=first, facts="facts"),
        "ask": lambda _n: AskSpec(model="tiny", prompt="Paris is located in", revisions=["base", first]),
        "verify": lambda _n: VerifySpec(model="tiny", revision=first),
        "sweep": lambda _n: SweepSpec(
            model="tiny",
            requests=requests[::4],
            layers=[1, 2],
            hparams=sweep_settings,
            revision="base",
            grid={"v_lr": [0.05, 0.1]},
        ),
        "revert": build_revert,
        "export": lambda n: ExportSpec(model="tiny", folder=str(folder / f"out{n}"), revision=first),
        "model": lambda n: ModelSpec(source=str(source), name=f"copy{n}"),
    }


def _run_to_end(catalog: Catalog, spec: Spec) -> Job:
    ended = control.follow(catalog, control.submit(catalog, spec).id or 0)
    assert ended.state == "done", ended.error
    return ended


def _import(facts: Path) -> None:
    retcon = str(Path(sys.executable).with_name("retcon"))
    subprocess.run(
        [retcon, "facts", "import", str(facts), "--name", "facts"], check=True, capture_output=True
    )


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as where:
        print(json.dumps(run_kills(Path(where), int(sys.argv[1])), indent=2))
