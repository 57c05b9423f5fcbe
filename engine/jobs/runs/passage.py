"""A passage put into a model, in stages: facts are made of a text, checked, written, proved, compared, judged.

What a stage made is saved with it in the passage's row; a resumed job goes on with the stage that was cut off. The
seconds of a stage are those of the attempt that finished it.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

from sqlmodel import Session

from ....store.catalog.tables import Passage, Revision
from ....store.facts import passages
from ....store.facts.passage_format import Passage as PassageFile
from ....store.facts.passage_format import PassageFact as StoredFact
from ....store.facts.passage_format import parse_passage
from ....store.facts.sets import facts_from_passage
from ....store.history import history
from ...errors import InputError
from ...model.memory import peak_memory, reset_peak_memory
from ...passages.checks import Problem, check_facts, sort_problems
from ...passages.extraction.chat import CachedChat, Chat, MeteredChat
from ...passages.extraction.endpoint import open_endpoint
from ...passages.extraction.judge import JudgedAnswer, judge_answers
from ...passages.extraction.steps import extract_passage
from ...passages.facts import PassageFact
from ...passages.key_checks import check_keys, check_tokens
from ...passages.proof import build_proof, measure_edit_retention, measure_state
from ..settings import resolve_hparams
from ..specs import PassageSpec
from ..worker.running import RunningJob
from .edit import past_edits, write
from .loaded import Loaded, load, load_revision
from .passage_methods import answers_of, check_by_sweep, ways

ENDPOINT = "endpoint"
_REQUEST = ("subject", "prompt", "target_new", "train_paraphrases", "eval_paraphrases")


def run(running: RunningJob, spec: PassageSpec) -> dict[str, Any]:
    """Returns the passage's id, and the last revision that it made."""
    work = _Work(running, spec)
    work.stage("extract", work.extract)
    work.stage("check", work.check)
    work.stage("write", work.write)
    work.stage("prove", work.prove)
    work.stage("compare", work.compare)
    if spec.judge:
        work.stage("judge", work.judge)
    return {"passage": work.row.id, "revision": work.row.revisions[-1]}


class _Work:
    """The passage's row, and the model once a stage needs it."""

    def __init__(self, running: RunningJob, spec: PassageSpec) -> None:
        self.running, self.spec = running, spec
        self.row = self._begun()
        self._loaded: Loaded | None = None

    def _begun(self) -> Passage:
        """The row that the job goes on with, or a new one."""
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

    def stage(self, name: str, do: Callable[[], int | None]) -> None:
        """Do what is not done yet, and note what it cost; `do` returns the tokens that a language model took."""
        if any(stage["name"] == name for stage in self.row.stages):
            return
        device = self._loaded.decoder.device if self._loaded else None
        if device is not None:
            reset_peak_memory(device)
        begin = time.monotonic()
        tokens = do()
        device = self._loaded.decoder.device if self._loaded else None
        cost = {
            "name": name,
            "seconds": time.monotonic() - begin,
            "tokens": tokens,
            "memory": peak_memory(device) if device is not None else None,
        }
        self.save(stages=[*self.row.stages, cost])
        if name == "extract" and self.spec.review and not self.spec.facts:
            self.running.pause()

    def save(self, note: dict[str, Any] | None = None, **changes: Any) -> None:
        """Save fields of the row, and `note` in the checkpoint."""
        with self.running.catalog.write() as session:
            self.save_in(session, note or {}, changes)

    def save_in(self, session: Session, note: dict[str, Any], changes: dict[str, Any]) -> None:
        row = session.get_one(Passage, self.row.id)
        for field, value in changes.items():
            setattr(row, field, value)
        session.add(row)
        session.flush()
        self.running.checkpoint(session, self.running.job.checkpoint | note)
        self.row = row

    @property
    def loaded(self) -> Loaded:
        """The model, at the last revision that the job has made."""
        if self._loaded is None:
            at = self.row.revisions[-1] if self.row.revisions else self.row.revision
            self._loaded = load(self.running, self.spec.model, at)
        return self._loaded

    def move_to(self, revision: str) -> Loaded:
        """The model at a revision of its history."""
        loaded = self.loaded
        if loaded.revision.id != revision:
            with self.running.catalog.read() as session:
                row = history.find_revision(session, loaded.model, revision)
            loaded.move_to(row)
        return loaded

    @property
    def facts(self) -> list[PassageFact]:
        return [PassageFact(**asdict(fact)) for fact in passages.file_of(self.row).facts]

    def extract(self) -> int | None:
        """The facts as they were given, or out of the text."""
        if self.spec.facts:
            given = parse_passage(self.spec.facts, "the passage")
            self.save(**passages.fields_of(replace(given, title=self.spec.title or given.title)))
            return None
        chat = MeteredChat(CachedChat(self._chat(), _Replies(self)))
        found = extract_passage(chat, self.spec.title, self.spec.text, self.running.report)
        facts = [
            {name: value for name, value in asdict(fact).items() if name != "sentence"}
            for fact in found.facts
        ]
        self.save(facts=facts, questions=[asdict(question) for question in found.questions])
        if self.spec.review:
            # Who looks at the facts shall see what is wrong with them.
            self._note_problems()
        return chat.usage.prompt_tokens + chat.usage.completion_tokens

    def check(self) -> None:
        """What is wrong with the facts is noted at them; an error is refused.

        Raises:
            InputError: a fact that cannot be written; the message names all of them.
        """
        _refuse(self._note_problems())

    def _note_problems(self) -> list[Problem]:
        """What is wrong with the facts as they are now, and note it at them."""
        loaded = self.loaded
        facts = self.facts
        layers = resolve_hparams(
            self.spec.edit([], loaded.revision.id), loaded.model, self.running.catalog.home
        ).layers
        found = [*check_facts(facts, self.row.text), *check_tokens(facts, loaded.tokenizer)]
        if not any(problem.severity == "error" for problem in found):
            edits = past_edits(self.running, loaded.revision)
            earlier = [request for edit in edits for request in edit.requests]
            layer = min(layers, default=0)
            found += check_keys(facts, loaded.decoder, loaded.tokenizer, layer, self.spec.method, earlier)
            with self.running.catalog.read() as session:
                found += check_by_sweep(session, loaded.model.id or 0, self.spec.method, len(facts))
        self.save(problems=[asdict(problem) for problem in sort_problems(found)])
        return found

    def write(self) -> None:
        """The facts in `edits` parts, each a revision; after each, all facts so far are asked again."""
        facts = passages.file_of(self.row).facts
        numbers = list(range(len(facts)))
        size = -(-len(numbers) // max(1, self.spec.edits))
        parts = [numbers[begin : begin + size] for begin in range(0, len(numbers), size)]
        for at in range(len(self.row.revisions), len(parts)):
            if at:
                self._ask_again(parts[:at])
            self._write_part(facts[parts[at][0] : parts[at][-1] + 1])
        self._ask_again(parts)

    def _write_part(self, facts: tuple[StoredFact, ...]) -> None:
        rows = facts_from_passage(PassageFile(self.row.title, "", facts))
        requests = [{name: getattr(row, name) for name in _REQUEST} for row in rows]
        begin = time.monotonic()

        def note(session: Session, revision: Revision) -> None:
            seconds = self.running.job.checkpoint.get("write_seconds", 0.0) + time.monotonic() - begin
            new = {"write_seconds": seconds, "parts": [], "values": {}}
            self.save_in(session, new, {"revisions": [*self.row.revisions, revision.id]})

        write(self.running, self.spec.edit(requests, self.loaded.revision.id), self.loaded, note)

    def _ask_again(self, parts: list[list[int]]) -> None:
        """Note how the facts of the parts written so far stand after the last of them, once."""
        told = self.row.proof.get("retention", [])
        if len(told) == len(parts):
            return
        written = [number for part in parts for number in part]
        found = measure_edit_retention(
            self.loaded.decoder,
            self.loaded.tokenizer,
            self.facts,
            written,
            self.row.revisions[-1],
            self.running.report,
        )
        self.save(proof={"retention": [*told, found.as_dict()]})

    def prove(self) -> None:
        """The facts, their held-out wordings and what else there is, before and after."""
        prompts, report = self.spec.prompts, self.running.report
        base = self.move_to(self.row.revision)
        before = measure_state(base.decoder, base.tokenizer, self.facts, prompts, report=report)
        now = self.move_to(self.row.revisions[-1])
        proof = build_proof(now.decoder, now.tokenizer, self.facts, before, report=report)
        self.save(proof=proof.as_dict() | {"retention": self.row.proof["retention"]})

    def compare(self) -> None:
        """The questions in each way; a way that was asked is not asked again."""
        if not self.row.questions:
            return
        passage = passages.file_of(self.row)
        for way in ways(self.spec.against):
            if any(known["baseline"] == way for known in self.row.answers):
                continue
            begin_at = self.row.revisions[-1] if way == "edited" else self.row.revision
            loaded = self.move_to(begin_at)
            seconds = self.running.job.checkpoint.get("write_seconds", 0.0)
            found = answers_of(way, self.running, self.spec, loaded, passage, seconds)
            self.save(answers=[*self.row.answers, found])

    def judge(self) -> int:
        """Scores of the language model for each fact's continuation and each answer."""
        chat = MeteredChat(CachedChat(self._chat(), _Replies(self)))
        proof, answers = dict(self.row.proof), [dict(one) for one in self.row.answers]
        facts = [dict(fact) for fact in proof["facts"]]
        cases = [
            JudgedAnswer(f"{one['prompt']} ...?", one["object"], one["after"]["completion"]) for one in facts
        ]
        for fact, found in zip(facts, judge_answers(chat, cases, self.running.report), strict=True):
            fact["judge"] = found.score
        for way in answers:
            way["questions"] = [dict(one) for one in way["questions"]]
            cases = [
                JudgedAnswer(one["question"], "; ".join(one["answers"]), one["said"])
                for one in way["questions"]
            ]
            for one, found in zip(
                way["questions"], judge_answers(chat, cases, self.running.report), strict=True
            ):
                one["judge"] = found.score
        self.save(proof=proof | {"facts": facts}, answers=answers)
        return chat.usage.prompt_tokens + chat.usage.completion_tokens

    def _chat(self) -> Chat:
        """The language model that the spec names.

        Raises:
            InputError: none was named.
        """
        if not self.spec.llm:
            raise InputError(
                "no language model was named: give --llm endpoint or --llm MODEL, or a file of facts"
            )
        if self.spec.llm == ENDPOINT:
            return open_endpoint(os.environ, self.spec.llm_url, self.spec.llm_model)
        from ...passages.extraction.local import LocalChat

        found = load_revision(self.running.catalog, self.spec.llm, "head", self.running.job.device)
        return LocalChat(self.spec.llm, found.decoder.model, found.tokenizer)


class _Replies:
    """Replies of a language model, kept in the job's checkpoint."""

    def __init__(self, work: _Work) -> None:
        self._work = work

    def get(self, key: str, /) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._work.running.job.checkpoint.get("replies", {}).get(key)
        return found

    def __setitem__(self, key: str, value: dict[str, Any], /) -> None:
        replies = self._work.running.job.checkpoint.get("replies", {}) | {key: value}
        self._work.save({"replies": replies})


def _refuse(problems: Iterable[Problem]) -> None:
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        told = "; ".join(f"fact {problem.fact + 1}: {problem.message}" for problem in errors)
        raise InputError(f"{len(errors)} facts cannot be written: {told}")
