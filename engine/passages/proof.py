"""Proof of a passage's edit: the facts, their evaluation paraphrases and side effects, before and after the edit.

`measure_state` measures one state of the model. `build_proof` measures the same prompts again after the edit, and
compares. This module changes no weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...passage_facts import PassageFact
from ..errors import InputError
from ..evaluation.drift import (
    HELD_OUT,
    HeldOutTexts,
    compute_kl,
    compute_next_log_probs,
    compute_text_nlls,
    load_held_out_texts,
)
from ..evaluation.retention import EarlierRequest, measure_retention
from ..evaluation.scoring import score_targets
from ..model.decoder import Decoder
from ..model.tokens import encode_target
from ..progress import Progress, Report, silent

# Free generation runs this many tokens beyond the longest object.
_EXTRA_TOKENS = 8
_BATCH_PROMPTS = 64
# Unrelated subjects: well-known people, people who occur in no text, and other things.
PEOPLE = (
    "Marie Curie", "Mahatma Gandhi", "William Shakespeare", "Angela Merkel", "Elena Marovska", "Daniel Whitcombe",
    "Priya Raghunathan", "Johan Ekblad",
)  # fmt: skip
THINGS = ("The Eiffel Tower", "Mount Kilimanjaro", "Toyota", "The Red Cross")
# An edit whose key is at the subject's last token leaks most to subjects with the same last name.
SAME_LAST_NAME = ("Thomas {}", "Mary {}")
_UNRELATED, _SAME_NAME = ("people", "things"), "same_last_name"


@dataclass(frozen=True)
class PromptResult:
    """A prompt's completion compared with an object.

    `first_token`: the object's first token is the argmax. `first_choice`: so is every token under teacher forcing.
    `free`: the greedy completion begins with the object.
    """

    prompt: str
    first_token: bool
    first_choice: bool
    free: bool
    completion: str


@dataclass(frozen=True)
class FactResult:
    """Results of a fact's own prompt, and of each of its evaluation paraphrases."""

    own: PromptResult
    eval_paraphrases: tuple[PromptResult, ...]


@dataclass(frozen=True)
class Leakage:
    """A fact's prompt with another subject: whether the fact's object, or its first token, is the first choice."""

    kind: str
    prompt: str
    first_token: bool
    whole: bool


@dataclass(frozen=True)
class ModelState:
    """All results on one state of the model. `log_probs` `[prompts, vocabulary]` is float32 on the CPU."""

    facts: tuple[FactResult, ...]
    leakage: tuple[Leakage, ...]
    prompts: tuple[str, ...]
    log_probs: Tensor
    texts: HeldOutTexts
    nlls: list[float]
    max_new_tokens: int


@dataclass(frozen=True)
class PassageRetention:
    """Whether the facts written so far hold after an edit: (number of the fact, first choice, free)."""

    edit: str
    facts: tuple[tuple[int, bool, bool], ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "edit": self.edit,
            "requests": len(self.facts),
            "first_choice": sum(first for _, first, _ in self.facts),
            "free": sum(free for *_, free in self.facts),
            "facts": [
                {"fact": number, "first_choice": first, "free": free} for number, first, free in self.facts
            ],
        }


@dataclass(frozen=True)
class SideEffects:
    """Changes other than the facts. `preserved` is the share of other prompts with an unchanged first choice.

    `leakage` has, for each kind of subject, (prompts, new first tokens, new whole objects).
    """

    preserved: float
    kl: float
    perplexity_before: float
    perplexity_after: float
    prompts: int
    leakage: dict[str, tuple[int, int, int]]

    @property
    def leakage_rate(self) -> float:
        """The share of prompts of unrelated subjects that are newly completed with the fact's object."""
        return self._share(2)

    def _share(self, column: int) -> float:
        rows = [self.leakage[kind] for kind in _UNRELATED if kind in self.leakage]
        return sum(row[column] for row in rows) / max(1, sum(row[0] for row in rows))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "leakage_rate": self.leakage_rate,
            "leakage_rate_first_token": self._share(1),
            "leakage": [
                {"kind": kind, "pairs": pairs, "first_token": first, "whole": whole}
                for kind, (pairs, first, whole) in self.leakage.items()
            ],
        }


@dataclass(frozen=True)
class Proof:
    """The results of all facts before and after an edit, and its side effects."""

    protocol: dict[str, Any]
    objects: tuple[str, ...]
    before: tuple[FactResult, ...]
    after: tuple[FactResult, ...]
    drift: SideEffects

    def as_dict(self) -> dict[str, Any]:
        facts = [
            {
                "prompt": after.own.prompt,
                "object": object,
                "before": _without_prompt(before.own),
                "after": _without_prompt(after.own),
                "held_out": [asdict(one) for one in after.eval_paraphrases],
                "held_out_before": [asdict(one) for one in before.eval_paraphrases],
                "judge": None,
            }
            for object, before, after in zip(self.objects, self.before, self.after, strict=True)
        ]
        return {"protocol": self.protocol, "facts": facts, "drift": self.drift.as_dict()}


def measure_state(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[PassageFact],
    prompts: Sequence[str] = (),
    texts: str = HELD_OUT,
    report: Report = silent,
) -> ModelState:
    """Measure the model's current state.

    `prompts` are other prompts, whose first choice an edit must not change. The default is the openings of the texts.
    Their distributions stay in memory: 200 kB per prompt for a vocabulary of 50,000.

    Raises:
        InputError: there are no facts, an object has no tokens, or the texts cannot be opened.
        StopRequested: raised by `report`.
    """
    if not facts:
        raise InputError("There are no facts to prove. Add some to the passage.")
    source = load_held_out_texts(decoder, tokenizer, texts)
    return _measure(decoder, tokenizer, facts, tuple(prompts) or tuple(source.openings), source, report)


def build_proof(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[PassageFact],
    before: ModelState,
    report: Report = silent,
) -> Proof:
    """Measure the same facts and prompts as in `before` on the current state, and compare both states.

    Raises:
        StopRequested: raised by `report`.
    """
    after = _measure(decoder, tokenizer, facts, before.prompts, before.texts, report)
    protocol = {
        "max_new_tokens": after.max_new_tokens,
        "prompts": len(before.prompts),
        "texts": before.texts.source,
        "text_tokens": sum(map(len, before.texts.rows)),
        "unrelated_prompts": sum(one.kind in _UNRELATED for one in before.leakage),
    }
    objects = tuple(fact.object for fact in facts)
    return Proof(protocol, objects, before.facts, after.facts, _compare(before, after))


def measure_passage_retention(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[PassageFact],
    numbers: Sequence[int],
    edit: str,
    report: Report = silent,
) -> PassageRetention:
    """Score the facts with these numbers: those written up to and including `edit`."""
    requests = [EarlierRequest(edit, facts[at].full_prompt, facts[at].object) for at in numbers]
    results = measure_retention(
        decoder, tokenizer, requests, _count_new_tokens(tokenizer, facts), report, "scoring the facts so far"
    )
    rows = ((number, one.first_choice, one.free) for number, one in zip(numbers, results, strict=True))
    return PassageRetention(edit, tuple(rows))


def build_leakage_prompts(facts: Sequence[PassageFact]) -> list[tuple[str, str, str]]:
    """(kind of subject, prompt, the fact's object): each fact's prompt with every other subject.

    Names that share the subject's last word count as "same last name", not as unrelated subjects.
    """
    subjects = {fact.subject.casefold() for fact in facts}
    prompts = []
    for fact in facts:
        last = fact.subject.split()[-1:]
        names = {
            "people": PEOPLE,
            "things": THINGS,
            _SAME_NAME: [name.format(word) for name in SAME_LAST_NAME for word in last],
        }
        for kind, of_kind in names.items():
            for name in of_kind:
                is_akin = [word.casefold() for word in last] == [name.split()[-1].casefold()]
                if name.casefold() not in subjects and (kind == _SAME_NAME or not is_akin):
                    prompts.append((kind, fact.prompt.replace("{}", name), fact.object))
    return prompts


def _measure(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[PassageFact],
    prompts: tuple[str, ...],
    texts: HeldOutTexts,
    report: Report,
) -> ModelState:
    max_new_tokens = _count_new_tokens(tokenizer, facts)
    pairs = [
        (fact.fill(template), fact.object)
        for fact in facts
        for template in (fact.prompt, *fact.eval_paraphrases)
    ]
    results = iter(_complete_prompts(decoder, tokenizer, pairs, max_new_tokens, report))
    fact_results = tuple(
        FactResult(next(results), tuple(next(results) for _ in fact.eval_paraphrases)) for fact in facts
    )
    report(Progress(0, None, "", "scoring the prompts with other subjects"))
    leakage = _measure_leakage(decoder, tokenizer, build_leakage_prompts(facts))
    report(Progress(0, None, "", "scoring other prompts"))
    log_probs = compute_next_log_probs(decoder, tokenizer, prompts)
    report(Progress(0, None, "", "reading other texts"))
    nlls = compute_text_nlls(decoder, texts.rows)
    return ModelState(fact_results, tuple(leakage), prompts, log_probs, texts, nlls, max_new_tokens)


def _complete_prompts(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    max_new_tokens: int,
    report: Report,
) -> list[PromptResult]:
    requests = [EarlierRequest("", prompt, object) for prompt, object in pairs]
    results = measure_retention(decoder, tokenizer, requests, max_new_tokens, report, "scoring the facts")
    first_tokens = _check_first_tokens(decoder, tokenizer, pairs)
    return [
        PromptResult(
            one.request.prompt, first or one.first_choice, one.first_choice, one.free, one.completion
        )
        for one, first in zip(results, first_tokens, strict=True)
    ]


def _measure_leakage(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[tuple[str, str, str]]
) -> list[Leakage]:
    pairs = [(prompt, object) for _, prompt, object in prompts]
    scores = score_targets(decoder, tokenizer, pairs)
    first_tokens = _check_first_tokens(decoder, tokenizer, pairs)
    return [
        Leakage(kind, prompt, first or score.first_choice, score.first_choice)
        for (kind, prompt, _), first, score in zip(prompts, first_tokens, scores, strict=True)
    ]


def _check_first_tokens(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[bool]:
    """For each (prompt, object), whether the object's first token is the argmax."""
    choices: list[int] = []
    for begin in range(0, len(pairs), _BATCH_PROMPTS):
        prompts = [prompt for prompt, _ in pairs[begin : begin + _BATCH_PROMPTS]]
        choices += compute_next_log_probs(decoder, tokenizer, prompts).argmax(-1).tolist()
    targets = (encode_target(tokenizer, object)[0] for _, object in pairs)
    return [choice == token for choice, token in zip(choices, targets, strict=True)]


def _compare(before: ModelState, after: ModelState) -> SideEffects:
    preserved = (before.log_probs.argmax(-1) == after.log_probs.argmax(-1)).float().mean().item()
    leakage: dict[str, tuple[int, int, int]] = {}
    for old, new in zip(before.leakage, after.leakage, strict=True):
        pairs, first, whole = leakage.get(old.kind, (0, 0, 0))
        first += new.first_token and not old.first_token
        whole += new.whole and not old.whole
        leakage[old.kind] = (pairs + 1, first, whole)
    return SideEffects(
        preserved=preserved,
        kl=fmean(compute_kl(before.log_probs, after.log_probs)),
        perplexity_before=before.texts.perplexity(before.nlls),
        perplexity_after=after.texts.perplexity(after.nlls),
        prompts=len(before.prompts),
        leakage=leakage,
    )


def _without_prompt(result: PromptResult) -> dict[str, Any]:
    return {name: value for name, value in asdict(result).items() if name != "prompt"}


def _count_new_tokens(tokenizer: PreTrainedTokenizerBase, facts: Sequence[PassageFact]) -> int:
    return max(len(encode_target(tokenizer, fact.object)) for fact in facts) + _EXTRA_TOKENS
