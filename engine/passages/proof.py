"""Did the passage's facts stick, in other words too, and what else has changed: before and after, on the same prompts.

`look` takes a state of the model in; `prove` takes the state before and looks again. Nothing here changes weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

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

# How much longer than the longest object free generation runs.
_SPARE = 8
_PROMPTS_AT_ONCE = 64
# Whose prompts must not go on with the passage's objects: known people, people of whom no text tells, and other things.
PERSONS = (
    "Marie Curie", "Mahatma Gandhi", "William Shakespeare", "Angela Merkel", "Elena Marovska", "Daniel Whitcombe",
    "Priya Raghunathan", "Johan Ekblad",
)  # fmt: skip
OTHERS = ("The Eiffel Tower", "Mount Kilimanjaro", "Toyota", "The Red Cross")
# What is written with a subject's last token as its key is most likely to be said of these.
NAMESAKES = ("Thomas {}", "Mary {}")
_STRANGERS, _AKIN = ("persons", "others"), "namesakes"

PROTOCOL = (
    "first token, whole object: first choice under teacher forcing; free: greedy generation, {tokens} new tokens, "
    "begins with the object as whole words; held-out wordings are never trained on; kept: the first choice after "
    "{prompts} other prompts is what it was, KL(before || after) there in nats; perplexity: exp(mean NLL) of {texts} "
    "tokens of {source} texts; bleed: of {pairs} prompts with another's name in it, the share that goes on with the "
    "whole object under teacher forcing and did not before"
)


class Fact(Protocol):
    """What the passage says: `prompt` and `eval_paraphrases` are templates with one `{}` for the subject."""

    @property
    def subject(self) -> str: ...

    @property
    def prompt(self) -> str: ...

    @property
    def object(self) -> str: ...

    @property
    def eval_paraphrases(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Continued:
    """How a prompt is continued: does the object begin right, come whole, and come of itself?"""

    prompt: str
    first_token: bool
    first_choice: bool
    free: bool
    completion: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "first_token": self.first_token,
            "first_choice": self.first_choice,
            "free": self.free,
            "completion": self.completion,
        }


@dataclass(frozen=True)
class FactState:
    """A fact asked with its own prompt, and with each of its held-out wordings."""

    own: Continued
    held_out: tuple[Continued, ...]


@dataclass(frozen=True)
class Bled:
    """A fact's prompt with another's name in it: does it go on with the fact's object, or begin to?"""

    kind: str
    prompt: str
    first_token: bool
    whole: bool


@dataclass(frozen=True)
class State:
    """All that is asked of one state of the model: `log_probs` `[prompts, vocabulary]` is float32, on the CPU."""

    facts: tuple[FactState, ...]
    bled: tuple[Bled, ...]
    prompts: tuple[str, ...]
    log_probs: Tensor
    texts: HeldOutTexts
    nlls: list[float]
    max_new_tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(sum(self.nlls) / sum(len(row) - 1 for row in self.texts.rows))


@dataclass(frozen=True)
class Retention:
    """After an edit, each of the facts in so far: (number of the fact, first choice, free)."""

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
class Drift:
    """What else has changed. `bleeds` has, for each kind of name, (pairs, newly first token, newly whole object)."""

    kept: float
    kl: float
    perplexity_before: float
    perplexity_after: float
    prompts: int
    bleeds: dict[str, tuple[int, int, int]]

    @property
    def bleed(self) -> float:
        """The share of strangers' prompts (people and other things, not namesakes) that newly go on with the object."""
        return self._share(2)

    def _share(self, column: int) -> float:
        rows = [self.bleeds[kind] for kind in _STRANGERS if kind in self.bleeds]
        return sum(row[column] for row in rows) / max(1, sum(row[0] for row in rows))

    def as_dict(self) -> dict[str, Any]:
        return {
            "kept": self.kept,
            "kl": self.kl,
            "perplexity_before": self.perplexity_before,
            "perplexity_after": self.perplexity_after,
            "bleed": self.bleed,
            "bleed_first_token": self._share(1),
            "bleeds": [
                {"kind": kind, "pairs": pairs, "first_token": first, "whole": whole}
                for kind, (pairs, first, whole) in self.bleeds.items()
            ],
            "prompts": self.prompts,
        }


@dataclass(frozen=True)
class Proof:
    """Facts before and after, and what else has changed."""

    protocol: str
    objects: tuple[str, ...]
    before: tuple[FactState, ...]
    after: tuple[FactState, ...]
    drift: Drift

    def as_dict(self) -> dict[str, Any]:
        facts = []
        for object, before, after in zip(self.objects, self.before, self.after, strict=True):
            facts.append(
                {
                    "prompt": after.own.prompt,
                    "object": object,
                    "before": _answer(before.own),
                    "after": _answer(after.own),
                    "held_out": [one.as_dict() for one in after.held_out],
                    "held_out_before": [one.as_dict() for one in before.held_out],
                    "judge": None,
                }
            )
        return {
            "protocol": self.protocol,
            "facts": facts,
            "drift": self.drift.as_dict(),
        }


def look(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    prompts: Sequence[str] = (),
    texts: str = HELD_OUT,
    report: Report = silent,
) -> State:
    """Ask the model as it is now. `prompts` are others, whose first choice should stay: by default the openings of the
    texts. Of their distributions all is kept: 200 kB a prompt with a vocabulary of 50,000.

    Raises:
        InputError: there is no fact, an object that tokenizes to nothing, or the texts cannot be opened.
        StopRequested: out of `report`.
    """
    if not facts:
        raise InputError("there is no fact to prove")
    source = load_held_out_texts(decoder, tokenizer, texts)
    return _look(decoder, tokenizer, facts, tuple(prompts) or tuple(source.openings), source, report)


def prove(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    before: State,
    report: Report = silent,
) -> Proof:
    """Look again at what `before` looked at, with the same facts, and set both side by side.

    Raises:
        StopRequested: out of `report`.
    """
    after = _look(decoder, tokenizer, facts, before.prompts, before.texts, report)
    protocol = PROTOCOL.format(
        tokens=after.max_new_tokens,
        prompts=len(before.prompts),
        texts=sum(map(len, before.texts.rows)),
        source=before.texts.source,
        pairs=sum(one.kind in _STRANGERS for one in before.bled),
    )
    objects = tuple(fact.object for fact in facts)
    return Proof(protocol, objects, before.facts, after.facts, _drift(before, after))


def retained(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    written: Sequence[int],
    edit: str,
    report: Report = silent,
) -> Retention:
    """After the edit of that revision: ask those of the facts that are in so far, by their numbers."""
    asked = [
        (_filled(facts[number].prompt, facts[number].subject), facts[number].object) for number in written
    ]
    earlier = [EarlierRequest(edit, prompt, object) for prompt, object in asked]
    found = measure_retention(
        decoder, tokenizer, earlier, _length(tokenizer, facts), _asking("the facts so far", report)
    )
    rows = ((number, one.first_choice, one.free) for number, one in zip(written, found, strict=True))
    return Retention(edit, tuple(rows))


def others_prompts(facts: Sequence[Fact]) -> list[tuple[str, str, str]]:
    """(kind of name, prompt, the fact's object): each fact's prompt with every name in it that is no subject here.

    Who has the subject's last word is a namesake and no stranger.
    """
    subjects = {fact.subject.casefold() for fact in facts}
    found = []
    for fact in facts:
        last = fact.subject.split()[-1:]
        akin = {word.casefold() for word in last}
        names = {
            "persons": PERSONS,
            "others": OTHERS,
            _AKIN: [name.format(word) for name in NAMESAKES for word in last],
        }
        for kind, of_kind in names.items():
            found += [
                (kind, _filled(fact.prompt, name), fact.object)
                for name in of_kind
                if name.casefold() not in subjects
                and (kind == _AKIN or name.split()[-1].casefold() not in akin)
            ]
    return found


def _look(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    prompts: tuple[str, ...],
    texts: HeldOutTexts,
    report: Report,
) -> State:
    length = _length(tokenizer, facts)
    asked = [
        (_filled(template, fact.subject), fact.object)
        for fact in facts
        for template in (fact.prompt, *fact.eval_paraphrases)
    ]
    continued = iter(_continued(decoder, tokenizer, asked, length, report))
    states = []
    for fact in facts:
        own = next(continued)
        states.append(FactState(own, tuple(next(continued) for _ in fact.eval_paraphrases)))
    report(Progress(0, None, "", "asking the passage's prompts of others"))
    bled = _bled(decoder, tokenizer, others_prompts(facts))
    report(Progress(0, None, "", "asking other prompts"))
    log_probs = compute_next_log_probs(decoder, tokenizer, prompts)
    report(Progress(0, None, "", "reading other texts"))
    nlls = compute_text_nlls(decoder, texts.rows)
    return State(tuple(states), tuple(bled), prompts, log_probs, texts, nlls, length)


def _continued(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[str, str]],
    max_new_tokens: int,
    report: Report,
) -> list[Continued]:
    earlier = [EarlierRequest("", prompt, object) for prompt, object in asked]
    found = measure_retention(decoder, tokenizer, earlier, max_new_tokens, _asking("the facts", report))
    begun = _begun(decoder, tokenizer, asked)
    return [
        Continued(one.request.prompt, first or one.first_choice, one.first_choice, one.free, one.completion)
        for one, first in zip(found, begun, strict=True)
    ]


def _bled(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[str, str, str]]
) -> list[Bled]:
    pairs = [(prompt, object) for _, prompt, object in asked]
    whole = [score.first_choice for score in score_targets(decoder, tokenizer, pairs)]
    begun = _begun(decoder, tokenizer, pairs)
    return [
        Bled(kind, prompt, first or all_of_it, all_of_it)
        for (kind, prompt, _), first, all_of_it in zip(asked, begun, whole, strict=True)
    ]


def _begun(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[str, str]]
) -> list[bool]:
    """Whether each object's first token is the first choice after its prompt."""
    choices: list[int] = []
    for begin in range(0, len(asked), _PROMPTS_AT_ONCE):
        prompts = [prompt for prompt, _ in asked[begin : begin + _PROMPTS_AT_ONCE]]
        choices += compute_next_log_probs(decoder, tokenizer, prompts).argmax(-1).tolist()
    wanted = (encode_target(tokenizer, object)[0] for _, object in asked)
    return [choice == token for choice, token in zip(choices, wanted, strict=True)]


def _drift(before: State, after: State) -> Drift:
    kept = (before.log_probs.argmax(-1) == after.log_probs.argmax(-1)).float().mean().item()
    bleeds: dict[str, tuple[int, int, int]] = {}
    for old, new in zip(before.bled, after.bled, strict=True):
        pairs, first, whole = bleeds.get(old.kind, (0, 0, 0))
        first += new.first_token and not old.first_token
        whole += new.whole and not old.whole
        bleeds[old.kind] = (pairs + 1, first, whole)
    kl = fmean(compute_kl(before.log_probs, after.log_probs))
    return Drift(kept, kl, before.perplexity, after.perplexity, len(before.prompts), bleeds)


def _asking(what: str, report: Report) -> Report:
    return lambda progress: report(replace(progress, activity=f"asking {what}"))


def _answer(continued: Continued) -> dict[str, Any]:
    return {name: value for name, value in continued.as_dict().items() if name != "prompt"}


def _filled(template: str, subject: str) -> str:
    return template.replace("{}", subject, 1)


def _length(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> int:
    return max(len(encode_target(tokenizer, fact.object)) for fact in facts) + _SPARE
