"""Write a passage into a model in stages: extract facts, check and write them, prove the result, compare, judge.

The result of a stage is saved in the passage's row. A resumed job repeats the interrupted stage. The seconds of a stage
are those of its last attempt.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from sqlmodel import Session

from ....passage_facts import PassageFact
from ....store.catalog.tables import Passage, Revision
from ....store.facts import passages
from ....store.facts.passage_reader import parse_passage
from ....store.history import history
from ...errors import InputError
from ...model.memory import peak_memory, reset_peak_memory
from ...passages.checks import Problem, check_facts, sort_problems
from ...passages.extraction.chat import CachedChat, Chat
from ...passages.extraction.endpoint import open_endpoint
from ...passages.extraction.judge import JudgedAnswer, judge_answers
from ...passages.extraction.steps import extract_passage
from ...passages.key_checks import check_keys, check_tokens
from ...passages.proof import build_proof, measure_passage_retention, measure_state
from ..settings import resolve_hparams
from ..specs import PassageSpec
from ..worker.running import RunningJob
from .edit import load_past_edits, write
from .loaded import Loaded, load, load_revision
from .passage_methods import BaselineRunner, build_requests, check_by_sweep, list_baselines

ENDPOINT = "endpoint"


def run(running: RunningJob, spec: PassageSpec) -> dict[str, Any]:
    """Run the stages that are not finished. Returns the passage's id and its last revision."""
    job = PassageJob(running, spec)
    for name, stage in STAGES.items():
        if name != "judge" or spec.judge:
            job.run_stage(name, stage)
    return {"passage": job.row.id, "revision": job.row.revisions[-1]}


class PassageJob:
    """The passage's row, and the model from the first stage that needs it."""

    def __init__(self, running: RunningJob, spec: PassageSpec) -> None:
        self.running, self.spec = running, spec
        self.row = self._load_or_create()
        self._loaded: Loaded | None = None

    def _load_or_create(self) -> Passage:
        """The row that the job continues, or a new one."""
        known = self.running.job.checkpoint.get("passage")
        with self.running.catalog.write() as session:
            if known is not None:
                return session.get_one(Passage, known)
            model = history.find_model(session, self.spec.model)
            base = history.find_revision(session, model, self.spec.revision)
            row = Passage(
                model_id=model.id or 0,
                revision=base.id,
                title=self.spec.title or model.name,
                text=self.spec.text,
                method=self.spec.method,
            )
            session.add(row)
            session.flush()
            self.running.checkpoint(session, {"passage": row.id})
            return row

    def run_stage(self, name: str, stage: "Stage") -> None:
        """Run a stage unless it is finished, and save its seconds, memory and tokens of the language model."""
        if any(finished["name"] == name for finished in self.row.stages):
            return
        if self._loaded is not None:
            reset_peak_memory(self._loaded.decoder.device)
        begin = time.monotonic()
        tokens = stage(self)
        cost = {
            "name": name,
            "seconds": time.monotonic() - begin,
            "tokens": tokens,
            "memory": peak_memory(self._loaded.decoder.device) if self._loaded is not None else None,
        }
        self.save(stages=[*self.row.stages, cost])
        if name == "extract" and self.spec.review and not self.spec.facts:
            self.running.pause()

    def save(self, checkpoint: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Save fields of the row, and fields of the job's checkpoint."""
        with self.running.catalog.write() as session:
            self._save(session, checkpoint or {}, fields)

    def _save(self, session: Session, checkpoint: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        row = session.get_one(Passage, self.row.id)
        for name, value in fields.items():
            setattr(row, name, value)
        session.add(row)
        session.flush()
        self.running.checkpoint(session, {**self.running.job.checkpoint, **checkpoint})
        self.row = row

    @property
    def loaded(self) -> Loaded:
        """The model, at first at the job's last revision."""
        if self._loaded is None:
            revision = self.row.revisions[-1] if self.row.revisions else self.row.revision
            self._loaded = load(self.running, self.spec.model, revision)
        return self._loaded

    def load_at(self, revision: str) -> Loaded:
        """The model at another revision."""
        loaded = self.loaded
        if loaded.revision.id != revision:
            with self.running.catalog.read() as session:
                row = history.find_revision(session, loaded.model, revision)
            loaded.move_to(row)
        return loaded

    @property
    def facts(self) -> tuple[PassageFact, ...]:
        return passages.to_file(self.row).facts

    def extract(self) -> int | None:
        """Save the facts of the spec, or extract facts from its text."""
        if self.spec.facts:
            passage = parse_passage(self.spec.facts, "the passage")
            self.save(**passages.to_columns(replace(passage, title=self.spec.title or passage.title)))
            return None
        chat = self._open_chat()
        found = extract_passage(chat, self.spec.title, self.spec.text, self.running.report)
        self.save(facts=list(map(asdict, found.facts)), questions=list(map(asdict, found.questions)))
        if self.spec.review:
            # The review shows the problems of the facts.
            self._save_problems()
        return chat.tokens

    def check(self) -> None:
        """Save the problems of the facts.

        Raises:
            InputError: some facts cannot be written. The message names all of them.
        """
        errors = [problem for problem in self._save_problems() if problem.severity == "error"]
        if errors:
            text = "; ".join(f"fact {problem.fact + 1}: {problem.message}" for problem in errors)
            raise InputError(f"{len(errors)} facts cannot be written: {text}")

    def _save_problems(self) -> list[Problem]:
        """Find and save the problems of the current facts."""
        loaded, facts, method = self.loaded, self.facts, self.spec.method
        edit = self.spec.build_edit([], loaded.revision.id)
        hparams = resolve_hparams(edit, loaded.model, self.running.catalog.home)
        problems = [*check_facts(facts, self.row.text), *check_tokens(facts, loaded.tokenizer)]
        if not any(problem.severity == "error" for problem in problems):
            past = load_past_edits(self.running, loaded.revision)
            earlier = [request for edit in past for request in edit.requests]
            layer = min(hparams.layers, default=0)
            problems += check_keys(facts, loaded.decoder, loaded.tokenizer, layer, method, earlier)
            with self.running.catalog.read() as session:
                problems += check_by_sweep(session, loaded.model.id or 0, method, len(facts))
        self.save(problems=[asdict(problem) for problem in sort_problems(problems)])
        return problems

    def write(self) -> None:
        """Write the facts in `edits` batches, each as a revision. After each, measure the retention of all facts."""
        facts = self.facts
        size = -(-len(facts) // max(1, self.spec.edits))
        ends = [min(begin + size, len(facts)) for begin in range(0, len(facts), size)]
        for number in range(len(self.row.revisions), len(ends)):
            if number:
                self._measure_retention(number, ends[number - 1])
            self._write_batch(facts[number * size : ends[number]])
        self._measure_retention(len(ends), ends[-1])

    def _write_batch(self, facts: tuple[PassageFact, ...]) -> None:
        begin = time.monotonic()

        def on_saved(session: Session, revision: Revision) -> None:
            seconds = self.running.job.checkpoint.get("write_seconds", 0.0) + time.monotonic() - begin
            checkpoint = {"write_seconds": seconds, "batches": [], "values": {}}
            self._save(session, checkpoint, {"revisions": [*self.row.revisions, revision.id]})

        edit = self.spec.build_edit(build_requests(facts), self.loaded.revision.id)
        write(self.running, edit, self.loaded, on_saved)

    def _measure_retention(self, edits: int, written: int) -> None:
        """Measure and save, once, the retention of the first facts after so many edits."""
        retention = self.row.proof.get("retention", [])
        if len(retention) == edits:
            return
        measured = measure_passage_retention(
            self.loaded.decoder,
            self.loaded.tokenizer,
            self.facts,
            range(written),
            self.row.revisions[-1],
            self.running.report,
        )
        self.save(proof={"retention": [*retention, measured]})

    def prove(self) -> None:
        """Measure the facts, their evaluation paraphrases and other prompts, before and after."""
        prompts, report = self.spec.prompts, self.running.report
        base = self.load_at(self.row.revision)
        before = measure_state(base.decoder, base.tokenizer, self.facts, prompts, report=report)
        now = self.load_at(self.row.revisions[-1])
        proof = build_proof(now.decoder, now.tokenizer, self.facts, before, report=report)
        self.save(proof=proof | {"retention": self.row.proof["retention"]})

    def compare(self) -> None:
        """Answer the questions with each baseline that has not answered yet."""
        if not self.row.questions:
            return
        passage = passages.to_file(self.row)
        for baseline in list_baselines(self.spec.baselines):
            if any(answers["baseline"] == baseline for answers in self.row.answers):
                continue
            revision = self.row.revisions[-1] if baseline == "edited" else self.row.revision
            seconds = self.running.job.checkpoint.get("write_seconds", 0.0)
            runner = BaselineRunner(self.running, self.spec, self.load_at(revision), passage, seconds)
            self.save(answers=[*self.row.answers, runner.run(baseline)])

    def judge(self) -> int:
        """Score each fact's completion and each answer with the language model."""
        chat = self._open_chat()
        facts = [dict(fact) for fact in self.row.proof["facts"]]
        cases = [
            JudgedAnswer(f"{fact['prompt']} ...?", fact["object"], fact["after"]["completion"])
            for fact in facts
        ]
        self._judge(chat, facts, cases)
        answers = [dict(one) for one in self.row.answers]
        for one in answers:
            questions = one["questions"] = [dict(question) for question in one["questions"]]
            cases = [JudgedAnswer(q["question"], "; ".join(q["answers"]), q["said"]) for q in questions]
            self._judge(chat, questions, cases)
        self.save(proof=self.row.proof | {"facts": facts}, answers=answers)
        return chat.tokens

    def _judge(self, chat: Chat, records: list[dict[str, Any]], cases: list[JudgedAnswer]) -> None:
        """Set the field `judge` of each record to the score of its case."""
        for record, result in zip(records, judge_answers(chat, cases, self.running.report), strict=True):
            record["judge"] = result.score

    def _open_chat(self) -> CachedChat:
        return CachedChat(self._open_model(), _Replies(self))

    def _open_model(self) -> Chat:
        """The language model that the spec names.

        Raises:
            InputError: the spec names none.
        """
        if not self.spec.llm:
            raise InputError(
                "This needs a language model: choose one with --llm endpoint or --llm MODEL, or give a file of facts."
            )
        if self.spec.llm == ENDPOINT:
            return open_endpoint(os.environ, self.spec.llm_url, self.spec.llm_model)
        from ...passages.extraction.local import LocalChat

        loaded = load_revision(self.running.catalog, self.spec.llm, "head", self.running.job.device)
        return LocalChat(self.spec.llm, loaded.decoder.model, loaded.tokenizer)


# A stage returns the tokens of the language model, if it uses one.
Stage = Callable[[PassageJob], int | None]
# All stages in order. "judge" runs only if the spec asks for it.
STAGES: dict[str, Stage] = {
    "extract": PassageJob.extract,
    "check": PassageJob.check,
    "write": PassageJob.write,
    "prove": PassageJob.prove,
    "compare": PassageJob.compare,
    "judge": PassageJob.judge,
}


class _Replies:
    """Stores replies of the language model in the job's checkpoint, so that a resumed job repeats no request."""

    def __init__(self, job: PassageJob) -> None:
        self._job = job

    def get(self, key: str, /) -> dict[str, Any] | None:
        reply: dict[str, Any] | None = self._job.running.job.checkpoint.get("replies", {}).get(key)
        return reply

    def __setitem__(self, key: str, value: dict[str, Any], /) -> None:
        replies = self._job.running.job.checkpoint.get("replies", {}) | {key: value}
        self._job.save({"replies": replies})
