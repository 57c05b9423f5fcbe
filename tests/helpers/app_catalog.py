"""A catalog with fixed ids and times, filled as jobs would fill it, without torch and processes."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from retcon.engine.jobs.locks import job_lock_path, try_lock
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import (
    Artifact,
    AverageEffect,
    Covariance,
    Evaluation,
    Fact,
    FactSet,
    Job,
    Model,
    Passage,
    Revision,
    Trace,
    TraceResult,
)
from retcon.store.history import history

BASE, ROME, FORD, WITHOUT, BRANCH = "5e130e1388", "4021943b39", "77aa01c2d4", "e5f57cab3a", "0c8f3b9a61"
MATRIX = "model.layers.5.mlp.down_proj.weight"
# A measured trace of the starter model, rounded.
EIFFEL = json.loads((Path(__file__).parent / "eiffel.json").read_text())


def at(minutes: float) -> datetime:
    """A fixed time."""
    return datetime(2026, 3, 1, 12, 0, tzinfo=UTC) + timedelta(minutes=minutes)


def fill(catalog: Catalog) -> None:
    """Add one model whose history has a branch and a revert, traces, a covariance, evaluations and ended jobs."""
    with catalog.write() as session:
        model = _model()
        session.add(model)
        session.flush()
        base = Revision(
            id=BASE,
            model_id=1,
            kind="base",
            message="base (starter)",
            fingerprint="e4f5b9de" * 8,
            created=at(0),
        )
        history.commit_revision(session, model, base, "add")
        session.add_all(Artifact(sha256=digit * 64, size=18_874_368, created=at(3)) for digit in "ab")
        session.add(_covariance())
        for revision, reason in (
            (_edit(ROME, BASE, "The Eiffel Tower", "{} is located in the city of", "Rome", "Paris", 4), "edit"),
            (_edit(BRANCH, ROME, "France", "The capital of {} is", "Lyon", "Paris", 5), "edit"),
            (_edit(FORD, ROME, "Toyota Camry", "{} is produced by", "Ford", "Toyota", 6), "edit"),
            (
                Revision(id=WITHOUT, model_id=1, parent=FORD, kind="revert", reverts=ROME,
                         message=f"without {ROME}: The Eiffel Tower → Rome", fingerprint="c0ffee00" * 8, created=at(7)),
                "revert",
            ),
        ):  # fmt: skip
            history.commit_revision(session, model, revision, reason)
        session.add(_evaluation())
        session.add(_passage())
        _traces(session)
        session.add_all(_jobs())
    catalog.home.job_log(3).write_text("reading texts\rreading texts: 40 %\nTraceback of the worker\n")


def jobs_of(catalog: Catalog) -> list[Job]:
    """The jobs, newest first."""
    with catalog.read() as session:
        return rows.list_jobs(session)


def head_of(catalog: Catalog) -> str | None:
    """The head of the only model."""
    with catalog.read() as session:
        return session.get_one(Model, 1).head


@contextmanager
def hold_job_locks(catalog: Catalog, *jobs: int) -> Iterator[None]:
    """Hold the locks of these jobs as their processes would, so that they do not count as dead."""
    with ExitStack() as stack:
        for job in jobs:
            assert stack.enter_context(try_lock(job_lock_path(catalog.home, job)))
        yield


def add_running(catalog: Catalog) -> None:
    """Add job 6 at 61 % and job 7, which waits for its device. Their process ids are beyond any real one."""
    with catalog.write() as session:
        session.add(
            _job(6, "covariance", "running", {"model": "starter", "layers": [5], "texts": "shipped"}, pid=99_999_998,
                 attempt=1, owner="x", started=at(31), done=61_440, total=100_000, unit="tokens", rate=1920,
                 seconds_left=20, activity="layer 5")
        )  # fmt: skip
        session.add(
            _job(7, "verify", "waiting", {"model": "starter", "revision": ROME}, pid=99_999_999, attempt=1, owner="y",
                 activity="waiting for cpu, which another job holds")
        )  # fmt: skip


def add_unfinished(catalog: Catalog, tokens: int) -> None:
    """Add trace 3 of all kinds with its first `tokens` traced, or update it."""
    kinds = ["hidden", "mlp", "attn", "severed-mlp", "severed-attn"]
    with catalog.write() as session:
        row = session.get(TraceResult, 99)
        if row is None:
            session.add(
                Trace(id=3, model_id=1, revision=BASE, noise="swap", samples=1, window=10, seed=1, kinds=kinds,
                      swap="The Big Ben", created=at(12))
            )  # fmt: skip
            session.flush()
            row = _result(3, 0)
            row.id = 99
            session.add(row)
        row.is_complete = tokens == len(row.tokens)
        row.scores, row.estimate = {}, {}
        for kind in kinds:
            table = EIFFEL["kinds"].get(kind, EIFFEL["kinds"]["hidden"])
            traced = [line if token < tokens else [None] * 30 for token, line in enumerate(table["scores"])]
            row.scores = row.scores | {kind: {"window": table["window"], "scores": traced}}
            if not kind.startswith("severed"):
                guessed = [[1.1 * value for value in line] for line in table["scores"]]
                row.estimate = row.estimate | {kind: guessed}


def _model() -> Model:
    anatomy = {
        "architecture": "LlamaForCausalLM", "embedding": "model.embed_tokens", "blocks": "model.layers", "layers": 30,
        "width": 576, "key_width": 1536, "attention": "self_attn", "mlp": "mlp", "matrix": "mlp.down_proj",
        "matrix_kind": "linear", "mlp_norm": None, "final_norm": "model.norm", "head": "lm_head", "tied_head": True,
        "parallel": False, "additive": True,
    }  # fmt: skip
    return Model(
        id=1, name="starter", source="starter", source_kind="starter", path="/data/models/starter",
        architecture="LlamaForCausalLM", dtype="float32", parameters=134_515_008, size=538_060_032, anatomy=anatomy,
        fingerprint="e4f5b9de" * 8, created=at(0),
    )  # fmt: skip


def _edit(id: str, parent: str, subject: str, prompt: str, new: str, true: str, minute: float) -> Revision:
    losses = [
        {"loss": loss, "nll": loss, "kl": 0.0, "decay": 0.0}
        for loss in (6.0, 4.67, 3.1, 1.6, 0.7, 0.21, 0.05)
    ]
    size = {"rank": 1, "norm": 7.9227, "relative": 0.04615, "effective": 0.99997, "unchanged": 0.0}
    return Revision(
        id=id, model_id=1, parent=parent, kind="edit", method="rome", hparams={"layers": [5]}, seed=1,
        requests=[{"subject": subject, "prompt": prompt, "target_new": new, "target_true": true}], covariances=[1],
        delta="b" * 64, statistics={"delta": {MATRIX: size}, "requests": [{"losses": losses}]},
        message=f"{subject} → {new}", fingerprint="f0d00615" * 8, created=at(minute),
    )  # fmt: skip


def _covariance() -> Covariance:
    return Covariance(
        model_id=1, layer=5, module="model.layers.5.mlp.down_proj", width=1536, texts="shipped",
        texts_revision="289d252a" * 8, seed=1, tokens=45_063, documents=300, max_length=512, dtype="float32",
        fingerprint="e4f5b9de" * 8, tokenizer="70cede54" * 8, artifact="a" * 64, created=at(3),
        curve=[{"tokens": 19_270, "mean": 0.083, "largest": 0.21}, {"tokens": 38_533, "mean": 0.031, "largest": 0.08}],
    )  # fmt: skip


def _passage() -> Passage:
    """Two facts in two edits; the second edit breaks free generation of the first. Three baselines."""
    facts = [("plays the", "cello"), ("lives in", "Reykjavik")]
    said = {"first_token": True, "first_choice": True, "free": True, "completion": " cello."}
    never = {"first_token": False, "first_choice": False, "free": False, "completion": " violin, and"}
    proved = [
        {"prompt": f"Marta Lindqvist {relation}", "object": object, "before": never,
         "after": said if number else said | {"free": False, "completion": " cello player"},
         "held_out": [(said if number else never) | {"prompt": "In the evening Marta Lindqvist"}], "judge": None}
        for number, (relation, object) in enumerate(facts)
    ]  # fmt: skip
    held = [[(0, True, True)], [(0, True, False), (1, True, True)]]
    retention = [
        {"edit": edit, "requests": len(row), "first_choice": len(row), "free": sum(free for *_, free in row),
         "facts": [{"fact": fact, "first_choice": first, "free": free} for fact, first, free in row]}
        for edit, row in zip((FORD, WITHOUT), held, strict=True)
    ]  # fmt: skip
    drift = {"preserved": 0.975, "kl": 0.0031, "perplexity_before": 15.1, "perplexity_after": 15.2, "leakage_rate": 0.0,
             "leakage_rate_first_token": 0.0, "leakage": [], "prompts": 40}  # fmt: skip
    asked = {"question": "What does Marta play?", "answers": ["cello"], "said": "The cello.", "judge": None,
             "seconds": 1.5, "tokens": 40, "tokens_in": 30, "ended": True, "truncated_tokens": 0}  # fmt: skip
    measured = {
        "max_new_tokens": 12,
        "prompts": 40,
        "texts": "held-out",
        "text_tokens": 4096,
        "unrelated_prompts": 48,
    }
    protocol = {"context": "none", "chat_template": False, "max_new_tokens": 64}
    return Passage(
        id=1, model_id=1, revision=BASE, revisions=[FORD, WITHOUT], title="Marta Lindqvist", method="joint",
        text="Marta Lindqvist plays the cello.", created=at(13),
        facts=[{"subject": "Marta Lindqvist", "prompt": f"{{}} {relation}", "object": object, "train_paraphrases": [],
                "eval_paraphrases": []} for relation, object in facts],
        questions=[{"question": asked["question"], "answers": asked["answers"]}],
        stages=[{"name": "write", "seconds": 130.0, "tokens": None, "memory": 1_400_000_000}],
        proof={"protocol": measured, "facts": proved, "retention": retention, "drift": drift},
        answers=[
            {"baseline": name, "protocol": protocol, "setup_seconds": seconds,
             "memory": 1_400_000_000, "questions": [asked | {"held": held}]}
            for name, seconds, held in (("unedited", 0.0, 0), ("edited", 130.0, 1), ("retrieval", 0.01, 1))
        ],
    )  # fmt: skip


def _evaluation() -> Evaluation:
    scores = {"ES": 1.0, "PS": 0.5, "NS": 1.0, "S": 0.75, "EM": 0.998, "PM": 0.322, "NM": 0.824}
    metrics = {
        name: {"value": value, "low": value, "high": value, "count": 1} for name, value in scores.items()
    }
    return Evaluation(model_id=1, revision=FORD, metrics=metrics, created=at(8))


def _traces(session: Any) -> None:
    towers = FactSet(id=1, name="towers", source="towers.json", format="plain", created=at(9))
    session.add(towers)
    for position, (subject, prompt) in enumerate(
        (("The Eiffel Tower", "{} is in"), ("Berlin", "{} is in"), ("Big Ben", "{} is in"))
    ):
        session.add(
            Fact(fact_set_id=1, position=position, subject=subject, prompt=prompt, target_true="Paris")
        )
    shared = {"model_id": 1, "revision": BASE, "noise": "3s", "noise_level": 0.36633, "samples": 10, "window": 10,
              "seed": 1, "kinds": ["hidden", "mlp", "attn"]}  # fmt: skip
    session.add(Trace(id=1, created=at(10), **shared))
    session.add(Trace(id=2, fact_set_id=1, created=at(11), **shared))
    session.flush()
    session.add(_result(1, 0))
    session.add(_result(2, 0))
    session.add(
        TraceResult(trace_id=2, position=1, prompt="Berlin is in", subject="Berlin", expected="Paris",
                    skip_reason="the model's first choice is ' Germany', not 'Paris'")
    )  # fmt: skip
    session.add(_result(2, 2))
    for kind in ("hidden", "mlp", "attn"):
        scores = EIFFEL["kinds"][kind]["scores"]
        for role, token in (("first subject", 0), ("last subject", 2), ("last", 9)):
            for layer, value in enumerate(scores[token]):
                effect = round(value - EIFFEL["low"], 4)
                session.add(
                    AverageEffect(trace_id=2, kind=kind, role=role, layer=layer, mean=effect, low=effect - 0.01,
                                  high=effect + 0.01, count=2)
                )  # fmt: skip


def _result(trace: int, position: int) -> TraceResult:
    begin, end = EIFFEL["subject_range"]
    return TraceResult(
        trace_id=trace, position=position, prompt=EIFFEL["prompt"], subject=EIFFEL["subject"], tokens=EIFFEL["tokens"],
        subject_begin=begin, subject_end=end, answer=EIFFEL["answer"], high=EIFFEL["high"], low=EIFFEL["low"],
        scores=EIFFEL["kinds"],
    )  # fmt: skip


def _jobs() -> list[Job]:
    written = {"subject": "The Eiffel Tower", "target_new": "Rome"}
    error = "the disk is full; free some space and resume the job"
    return [
        _job(1, "model", "done", {"source": "starter", "name": "starter"}, result={"model": 1, "revision": BASE},
             started=at(0), ended=at(0.4)),
        _job(2, "edit", "done", {"model": "starter", "requests": [written]}, result={"revision": ROME}, started=at(2),
             ended=at(4)),
        _job(3, "trace", "failed", {"model": "starter", "facts": "towers"}, error=error, error_kind="failure",
             started=at(10), ended=at(11)),
        _job(4, "revert", "interrupted", {"model": "starter", "reverts": ROME}, started=at(12), ended=at(13)),
        _job(5, "export", "cancelled", {"model": "starter", "folder": "/tmp/out"}, ended=at(14)),
    ]  # fmt: skip


def _job(id: int, kind: str, state: str, spec: dict[str, Any], **values: Any) -> Job:
    return Job(id=id, kind=kind, state=state, spec=spec, device="cpu", created=at(5 * id), **values)
