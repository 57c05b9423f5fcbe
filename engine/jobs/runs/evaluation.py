"""Score a revision, and store the protocol beside the numbers. A block of cases is what a resumed job goes on from."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlmodel import Session

from ....store.catalog.tables import Evaluation, Fact, Revision
from ....store.facts import sets as fact_sets
from ....store.history import history
from ...errors import InputError
from ...evaluation.cases import Case, Neighbor, PortabilityQuestion, Reference, hash_cases
from ...evaluation.drift import measure_drift
from ...evaluation.intervals import Metric, summarize_rows
from ...evaluation.metrics import METRICS
from ...evaluation.retention import RETENTION_RULE, EarlierRequest, count_by_edit, measure_retention
from ...evaluation.run import EvaluationSettings, TextSampling, evaluate_blocks
from ...evaluation.scoring import negate
from ..specs import EvaluationSpec
from ..worker.running import RunningJob
from .loaded import Loaded, load


def run(running: RunningJob, spec: EvaluationSpec) -> dict[str, Any]:
    """Returns the evaluation's id."""
    loaded = load(running, spec.model, spec.revision)
    with running.catalog.read() as session:
        cases, source = _cases(session, spec, loaded)
        fact_set = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
        earlier = _earlier(
            history.live_edits(history.load_path(session, loaded.revision.id)), loaded.revision.id
        )
    settings = _settings(spec, loaded)
    records = _records(running, loaded, cases, settings)
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
        kept = measure_retention(
            loaded.decoder, loaded.tokenizer, earlier, spec.max_new_tokens, running.report
        )
        if kept:
            metrics |= summarize_rows([one.metrics() for one in kept], spec.seed)
            protocol["retention"] = RETENTION_RULE
            retention = count_by_edit(kept)
    evaluation = Evaluation(
        model_id=loaded.model.id or 0,
        revision=loaded.revision.id,
        fact_set_id=fact_set.id if fact_set else None,
        protocol=protocol,
        metrics=_as_json(metrics),
        cases=records,
        retention=retention,
    )
    with running.catalog.write() as session:
        session.add(evaluation)
        session.flush()
        made = running.commit_result(session, {"evaluation": evaluation.id})
    running.results_checkpoint.unlink(missing_ok=True)
    return made


def _settings(spec: EvaluationSpec, loaded: Loaded) -> EvaluationSettings:
    if spec.suite == "quick":
        return EvaluationSettings(max_new_tokens=0)
    return EvaluationSettings(
        spec.max_new_tokens,
        partial(loaded.holding, {}) if loaded.delta else None,
        TextSampling(spec.seed) if spec.suite == "full" else None,
    )


def _records(
    running: RunningJob, loaded: Loaded, cases: Sequence[Case], settings: EvaluationSettings
) -> list[dict[str, Any]]:
    """What was measured of each case. Finished blocks are appended to a file, and read from it after a restart."""
    asked = hash_cases(cases)
    state = running.job.checkpoint
    resumed = state.get("cases_sha256") == asked and running.results_checkpoint.is_file()
    records: list[dict[str, Any]] = []
    with running.results_checkpoint.open("r+b" if resumed else "w+b") as file:
        if resumed:
            records = [json.loads(line) for line in file.read(state["bytes"]).splitlines()]
            file.truncate()  # a block that was not counted any more
        start = len(records)
        for block in evaluate_blocks(
            loaded.decoder, loaded.tokenizer, cases, settings, running.report, start
        ):
            for result in block:
                line = json.dumps(result.as_dict())
                file.write(line.encode() + b"\n")
                records.append(json.loads(line))
            file.flush()
            os.fsync(file.fileno())
            with running.catalog.write() as session:
                running.checkpoint(session, {"cases_sha256": asked, "bytes": file.tell()})
    return records


def _as_json(metrics: dict[str, Metric]) -> dict[str, Any]:
    return {name: asdict(metrics[name]) for name in METRICS if name in metrics}


def _cases(session: Session, spec: EvaluationSpec, loaded: Loaded) -> tuple[list[Case], str]:
    """The cases, and in words where they come from."""
    if spec.facts:
        facts = fact_sets.list_facts(session, fact_sets.find_fact_set(session, spec.facts))
        cases = [case_of(_as_request(fact)) for fact in facts if fact.target_new or fact.target_true]
        if not cases:
            raise InputError(f"no fact of {spec.facts} has a target, so there is nothing to ask")
        return cases, spec.facts
    of = spec.requests_of or loaded.revision.id
    edits = history.live_edits(
        history.load_path(session, history.find_revision(session, loaded.model, of).id)
    )
    cases = [case_of(request) for edit in edits for request in edit.requests]
    if not cases:
        raise InputError(
            f"{spec.model}@{of} has no edits whose requests could be asked; name facts with --facts, or another "
            "revision's requests with --requests-of"
        )
    return cases, f"the requests of the edits of {of}"


def _as_request(fact: Fact) -> dict[str, Any]:
    return {name: getattr(fact, name) for name in (*fact_sets.REQUEST_FIELDS, "references")}


def case_of(request: dict[str, Any]) -> Case:
    """A fact that has only a true target (a known fact) is asked for that one."""
    new, true = request.get("target_new"), request.get("target_true")
    return Case(
        prompt=_whole(request),
        target_new=new or true or "",
        target_true=true if new else None,
        paraphrases=tuple(request.get("eval_paraphrases") or ()),
        neighbors=tuple(Neighbor(n["prompt"], n["true"]) for n in request.get("neighbors") or ()),
        subject=request["subject"],
        negations=tuple(request.get("negations") or _negations(request)),
        portability=tuple(
            PortabilityQuestion(q["prompt"], tuple(q["answers"])) for q in request.get("portability") or ()
        ),
        generation_prompts=tuple(request.get("generation_prompts") or ()),
        references=tuple(Reference(r["text"], r.get("name")) for r in request.get("references") or ()),
    )


def _whole(request: dict[str, Any]) -> str:
    return str(request["prompt"]).replace("{}", request["subject"])


def _negations(request: dict[str, Any]) -> list[str]:
    """Only what was written can be wrongly said of the negation: a known fact has none."""
    template = negate(request["prompt"]) if request.get("target_new") else None
    return [template.replace("{}", request["subject"])] if template else []


def _earlier(edits: Sequence[Revision], newest: str) -> list[EarlierRequest]:
    """The requests of all edits but the newest, without those whose prompt a later edit has written anew."""
    requests = {_whole(request): (edit.id, request) for edit in edits for request in edit.requests}
    return [
        EarlierRequest(edit, prompt, request["target_new"])
        for prompt, (edit, request) in requests.items()
        if edit != newest
    ]
