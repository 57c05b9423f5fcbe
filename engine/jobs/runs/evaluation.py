"""Score a revision, and store the protocol beside the numbers."""

from dataclasses import asdict
from typing import Any

from sqlmodel import Session

from ....store import facts as fact_sets
from ....store import history
from ....store.tables import Evaluation, Fact
from ...errors import InputError
from ...evaluation import Case, Neighbour, evaluate, protocol, summarise
from ..running import Running
from ..specs import EvaluationSpec
from .loaded import Loaded, load


def run(running: Running, spec: EvaluationSpec) -> dict[str, Any]:
    """Returns the evaluation's id."""
    loaded = load(running, spec.model, spec.revision)
    with running.catalog.read() as session:
        cases = _cases(session, spec, loaded)
        fact_set = fact_sets.find_fact_set(session, spec.facts) if spec.facts else None
    results = evaluate(loaded.decoder, loaded.tokenizer, cases, spec.max_new_tokens, running.report)
    metrics = summarise(results, spec.seed)
    evaluation = Evaluation(
        model_id=loaded.model.id or 0,
        revision=loaded.revision.id,
        fact_set_id=fact_set.id if fact_set else None,
        protocol=protocol(spec.max_new_tokens, spec.seed)
        | {
            "cases": len(cases),
            "facts": spec.facts or "the requests of the revision's edits",
            "dtype": loaded.model.dtype,
            "device": running.job.device,
        },
        metrics={name: asdict(metric) for name, metric in metrics.items()},
        cases=[result.as_dict() for result in results],
    )
    with running.catalog.write() as session:
        session.add(evaluation)
        session.flush()
        return running.commit(session, {"evaluation": evaluation.id})


def _cases(session: Session, spec: EvaluationSpec, loaded: Loaded) -> list[Case]:
    if spec.facts:
        facts = fact_sets.facts_of(session, fact_sets.find_fact_set(session, spec.facts))
        cases = [_case(_as_request(fact)) for fact in facts if fact.target_new or fact.target_true]
    else:
        edits = history.live_edits(history.path(session, loaded.revision.id))
        cases = [_case(request) for edit in edits for request in edit.requests]
    if not cases:
        raise InputError(
            f"{spec.model}@{loaded.revision.id} has no edits whose requests could be asked; name facts with --facts"
        )
    return cases


def _as_request(fact: Fact) -> dict[str, Any]:
    return {
        name: getattr(fact, name)
        for name in ("subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours")
    }


def _case(request: dict[str, Any]) -> Case:
    """A fact that has only a true target (a known fact) is asked for that one."""
    new, true = request.get("target_new"), request.get("target_true")
    return Case(
        prompt=request["prompt"].replace("{}", request["subject"]),
        target_new=new or true or "",
        target_true=true if new else None,
        paraphrases=tuple(request.get("paraphrases") or ()),
        neighbours=tuple(Neighbour(n["prompt"], n["true"]) for n in request.get("neighbours") or ()),
    )
