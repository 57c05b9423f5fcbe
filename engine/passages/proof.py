"""Proof of a passage's edit: the facts, their evaluation paraphrases and side effects, before and after the edit.

`measure_state` measures one state of the model. `build_proof` measures the same prompts again after the edit, and
compares. This module changes no weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
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
from ..evaluation.retention import EarlierRequest, RetentionResult, count_by_edit, measure_retention
from ..evaluation.scoring import Score, score_targets
from ..model.decoder import Decoder
from ..model.tokens import encode_target
from ..progress import Progress, Report, silent

# Free generation runs this many tokens beyond the longest object.
_EXTRA_TOKENS = 8
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
class ModelState:
    """All results on one state of the model.

    `facts` has a list per fact: the results of its own prompt and of each evaluation paraphrase. `leakage` has the kind
    of subject and the score of each prompt with another subject. `log_probs` `[prompts, vocabulary]` is float32 on the
    CPU.
    """

    facts: list[list[RetentionResult]]
    leakage: list[tuple[str, Score]]
    prompts: tuple[str, ...]
    log_probs: Tensor
    texts: HeldOutTexts
    nlls: list[float]
    max_new_tokens: int


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
) -> dict[str, Any]:
    """Measure the same facts and prompts as in `before` on the current state. Returns the record of the comparison.

    Raises:
        StopRequested: raised by `report`.
    """
    after = _measure(decoder, tokenizer, facts, before.prompts, before.texts, report)
    protocol = {
        "max_new_tokens": after.max_new_tokens,
        "prompts": len(before.prompts),
        "texts": before.texts.source,
        "text_tokens": sum(map(len, before.texts.rows)),
        "unrelated_prompts": sum(kind in _UNRELATED for kind, _ in before.leakage),
    }
    records = [
        {
            "prompt": fact.full_prompt,
            "object": fact.object,
            "before": _to_record(old[0]),
            "after": _to_record(new[0]),
            "held_out": [{"prompt": one.request.prompt} | _to_record(one) for one in new[1:]],
            "held_out_before": [{"prompt": one.request.prompt} | _to_record(one) for one in old[1:]],
            "judge": None,
        }
        for fact, old, new in zip(facts, before.facts, after.facts, strict=True)
    ]
    return {"protocol": protocol, "facts": records, "drift": _compare(before, after).as_dict()}


def measure_passage_retention(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[PassageFact],
    numbers: Sequence[int],
    edit: str,
    report: Report = silent,
) -> dict[str, Any]:
    """Score the facts with these numbers: those written up to and including `edit`. Returns the record."""
    requests = [EarlierRequest(edit, facts[at].full_prompt, facts[at].object) for at in numbers]
    results = measure_retention(
        decoder, tokenizer, requests, _count_new_tokens(tokenizer, facts), report, "scoring the facts so far"
    )
    [counts] = count_by_edit(results)
    rows = [
        {"fact": number, "first_choice": one.first_choice, "free": one.free}
        for number, one in zip(numbers, results, strict=True)
    ]
    return counts | {"facts": rows}


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
    requests = [
        EarlierRequest("", fact.fill(template), fact.object)
        for fact in facts
        for template in (fact.prompt, *fact.eval_paraphrases)
    ]
    results = iter(
        measure_retention(decoder, tokenizer, requests, max_new_tokens, report, "scoring the facts")
    )
    fact_results = [list(islice(results, 1 + len(fact.eval_paraphrases))) for fact in facts]
    report(Progress(0, None, "", "scoring the prompts with other subjects"))
    leakage_prompts = build_leakage_prompts(facts)
    scores = score_targets(decoder, tokenizer, [(prompt, object) for _, prompt, object in leakage_prompts])
    leakage = [(kind, score) for (kind, *_), score in zip(leakage_prompts, scores, strict=True)]
    report(Progress(0, None, "", "scoring other prompts"))
    log_probs = compute_next_log_probs(decoder, tokenizer, prompts)
    report(Progress(0, None, "", "reading other texts"))
    nlls = compute_text_nlls(decoder, texts.rows)
    return ModelState(fact_results, leakage, prompts, log_probs, texts, nlls, max_new_tokens)


def _compare(before: ModelState, after: ModelState) -> SideEffects:
    preserved = (before.log_probs.argmax(-1) == after.log_probs.argmax(-1)).float().mean().item()
    leakage: dict[str, tuple[int, int, int]] = {}
    for (kind, old), (_, new) in zip(before.leakage, after.leakage, strict=True):
        pairs, first, whole = leakage.get(kind, (0, 0, 0))
        first += new.first_token and not old.first_token
        whole += new.first_choice and not old.first_choice
        leakage[kind] = (pairs + 1, first, whole)
    return SideEffects(
        preserved=preserved,
        kl=fmean(compute_kl(before.log_probs, after.log_probs)),
        perplexity_before=before.texts.perplexity(before.nlls),
        perplexity_after=after.texts.perplexity(after.nlls),
        prompts=len(before.prompts),
        leakage=leakage,
    )


def _to_record(result: RetentionResult) -> dict[str, Any]:
    return {
        "first_token": result.first_token,
        "first_choice": result.first_choice,
        "free": result.free,
        "completion": result.completion,
    }


def _count_new_tokens(tokenizer: PreTrainedTokenizerBase, facts: Sequence[PassageFact]) -> int:
    return max(len(encode_target(tokenizer, fact.object)) for fact in facts) + _EXTRA_TOKENS
