"""Evaluate a revision and save the scores with their protocol. A resumed job continues after the last saved block."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlmodel import Session

from ....prompts import fill_prompt
from ....store.catalog.tables import Evaluation, Revision
from ....store.facts import sets as fact_sets
from ....store.history import history
from ...errors import InputError
from ...evaluation.cases import Case, Neighbor, PortabilityQuestion, Reference, hash_cases
from ...evaluation.drift import measure_drift
from ...evaluation.intervals import summarize_rows
from ...evaluation.metrics import METRICS
from ...evaluation.retention import RETENTION_RULE, EarlierRequest, count_by_edit, measure_retention
from ...evaluation.run import EvaluationSettings, TextSampling, evaluate_blocks
from ...evaluation.scoring import negate
from ..specs import EvaluationSpec
from ..worker.running import RunningJob
from .loaded import Loaded, load


def run(running: RunningJob, spec: EvaluationSpec) -> dict[str, Any]:
    """Evaluate a revision. Returns the evaluation's id."""
    loaded = load(running, spec.model, spec.revision)
    with running.catalog.read() as session:
        cases, source = _find_cases(session, spec, loaded)
        fact_set = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
        edits = history.live_edits(history.load_path(session, loaded.revision.id))
    settings = _settings(spec, loaded)
    records = _score_cases(running, loaded, cases, settings)
    metrics = summarize_rows([record["metrics"] for record in records], spec.seed)
    protocol = settings.protocol(chat=bool(loaded.tokenizer.chat_template)) | {
        "seed": spec.seed,
        "cases": len(cases),
        "cases_sha256": hash_cases(cases),
        "dtype": loaded.model.dtype,
        "suite": spec.suite,
        "facts": source,
        "device": running.job.device,
    }
    retention: list[dict[str, Any]] = []
    if spec.suite != "quick":
        drift = measure_drift(
            loaded.decoder, loaded.tokenizer, spec.texts, settings.at_base, perplexity=spec.suite == "full",
            report=running.report,
        )  # fmt: skip
        metrics |= drift.metrics(spec.seed)
        protocol |= drift.protocol()
        earlier = measure_retention(
            loaded.decoder, loaded.tokenizer, _find_earlier(edits, loaded.revision.id), spec.max_new_tokens,
            running.report,
        )  # fmt: skip
        if earlier:
            metrics |= summarize_rows([one.metrics() for one in earlier], spec.seed)
            protocol["retention"] = RETENTION_RULE
            retention = count_by_edit(earlier)
    evaluation = Evaluation(
        model_id=loaded.model.id or 0,
        revision=loaded.revision.id,
        fact_set_id=fact_set.id if fact_set else None,
        protocol=protocol,
        metrics={name: asdict(metrics[name]) for name in METRICS if name in metrics},
        cases=records,
        retention=retention,
    )
    with running.catalog.write() as session:
        session.add(evaluation)
        session.flush()
        result = running.commit_result(session, {"evaluation": evaluation.id})
    running.results_checkpoint.unlink(missing_ok=True)
    return result


def _settings(spec: EvaluationSpec, loaded: Loaded) -> EvaluationSettings:
    if spec.suite == "quick":
        return EvaluationSettings(max_new_tokens=0)
    return EvaluationSettings(
        spec.max_new_tokens,
        partial(loaded.holding, {}) if loaded.delta else None,
        TextSampling(spec.seed) if spec.suite == "full" else None,
    )


def _score_cases(
    running: RunningJob, loaded: Loaded, cases: Sequence[Case], settings: EvaluationSettings
) -> list[dict[str, Any]]:
    """The record of each case. Finished blocks are appended to a file, which a resumed job reads."""
    digest, state = hash_cases(cases), running.job.checkpoint
    is_resumed = state.get("cases_sha256") == digest and running.results_checkpoint.is_file()
    records: list[dict[str, Any]] = []
    with running.results_checkpoint.open("r+b" if is_resumed else "w+b") as file:
        if is_resumed:
            records = [json.loads(line) for line in file.read(state["bytes"]).splitlines()]
            file.truncate()  # removes a block that the checkpoint does not count
        for block in evaluate_blocks(
            loaded.decoder, loaded.tokenizer, cases, settings, running.report, len(records)
        ):
            for result in block:
                line = json.dumps(result.as_dict())
                file.write(line.encode() + b"\n")
                records.append(json.loads(line))
            file.flush()
            os.fsync(file.fileno())
            with running.catalog.write() as session:
                running.checkpoint(session, {"cases_sha256": digest, "bytes": file.tell()})
    return records


def _find_cases(session: Session, spec: EvaluationSpec, loaded: Loaded) -> tuple[list[Case], str]:
    """The cases, and their source as text.

    Raises:
        InputError: there is none.
    """
    if spec.facts:
        facts = fact_sets.list_facts(session, fact_sets.find_fact_set(session, spec.facts))
        cases = [build_case(fact.model_dump()) for fact in facts if fact.target_new or fact.target_true]
        if not cases:
            raise InputError(f"No fact of {spec.facts} has a target, so there is nothing to evaluate.")
        return cases, spec.facts
    name = spec.requests_of or loaded.revision.id
    revision = history.find_revision(session, loaded.model, name)
    edits = history.live_edits(history.load_path(session, revision.id))
    cases = [build_case(request) for edit in edits for request in edit.requests]
    if not cases:
        raise InputError(
            f"{spec.model}@{name} has no edits, so there are no requests to evaluate. Name facts with --facts, or "
            "another revision with --requests-of."
        )
    return cases, f"the requests of the edits of {name}"


def build_case(request: dict[str, Any]) -> Case:
    """The case of a request or fact. For a known fact, with only a true target, that is the target."""
    new, true = request.get("target_new"), request.get("target_true")
    # Only a fact that was written has a negation.
    negation = negate(request["prompt"]) if new else None
    negations = [fill_prompt(negation, request["subject"])] if negation else []
    return Case(
        prompt=_full_prompt(request),
        target_new=new or true or "",
        target_true=true if new else None,
        eval_paraphrases=tuple(request.get("eval_paraphrases") or ()),
        neighbors=tuple(Neighbor(n["prompt"], n["true"]) for n in request.get("neighbors") or ()),
        subject=request["subject"],
        negations=tuple(request.get("negations") or negations),
        portability=tuple(
            PortabilityQuestion(q["prompt"], tuple(q["answers"])) for q in request.get("portability") or ()
        ),
        generation_prompts=tuple(request.get("generation_prompts") or ()),
        references=tuple(Reference(r["text"], r.get("name")) for r in request.get("references") or ()),
    )


def _full_prompt(request: dict[str, Any]) -> str:
    return fill_prompt(str(request["prompt"]), request["subject"])


def _find_earlier(edits: Sequence[Revision], newest: str) -> list[EarlierRequest]:
    """The requests of all edits but the newest, without those whose prompt a later edit wrote again."""
    requests = {_full_prompt(request): (edit.id, request) for edit in edits for request in edit.requests}
    return [
        EarlierRequest(edit, prompt, request["target_new"])
        for prompt, (edit, request) in requests.items()
        if edit != newest
    ]
