"""Corrupted runs of a trace: noise on the subject's embeddings, or another subject in its place.

A batch has facts of equal shape: number of tokens, begin and end of the subject. The rows of a fact are one clean
row, then its corrupted rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.decoder import Decoder, Edit, Resumption, Run
from ..model.tokens import LocatedPrompt, locate_span, locate_subject
from .noise import Noise


@dataclass(frozen=True)
class NoiseCorruption:
    """`samples` draws of noise, the same for every fact. Added to the embeddings; replaces them with `replace`."""

    noise: Noise
    samples: int = 10
    seed: int = 1
    replace: bool = False

    def rows(self, fact: LocatedPrompt) -> list[list[int]]:
        """Token ids of a fact's rows, the clean row first."""
        return [fact.ids] * (1 + self.samples)

    def edit(self, fact: LocatedPrompt) -> Edit | None:
        """The change of the embeddings `[facts * (1 + samples), T, d]` of facts shaped like this one."""

        def corrupt(embedded: Tensor) -> Tensor:
            begin, end, width = fact.begin, fact.end, embedded.shape[-1]
            noise = self.noise.draw(self.samples, end - begin, width, self.seed).to(embedded)
            embedded = embedded.clone()
            subjects = embedded.view(-1, 1 + self.samples, *embedded.shape[1:])[:, 1:, begin:end]
            subjects.copy_(noise.expand_as(subjects) if self.replace else subjects + noise)
            return embedded

        return corrupt


@dataclass(frozen=True)
class SwapCorruption:
    """One corrupted row: the same prompt with another subject of equally many tokens (Zhang and Nanda 2023).

    The inputs stay natural text. `swapped` maps (prompt, subject) to the ids of that row.
    """

    swapped: dict[tuple[str, str], list[int]]
    samples: int = 1

    def rows(self, fact: LocatedPrompt) -> list[list[int]]:
        """Token ids of the clean row and of the other subject's row."""
        return [fact.ids, self.swapped[fact.prompt, fact.subject]]

    def edit(self, fact: LocatedPrompt) -> Edit | None:
        """None: the token ids differ, the embeddings are not changed."""
        return None


Corruption = NoiseCorruption | SwapCorruption


def swap_subject(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str, other: str) -> list[int]:
    """Token ids of the prompt with another subject.

    Raises:
        InputError: the other subject has another number of tokens, or changes the tokens around it.
    """
    before = locate_subject(tokenizer, prompt, subject)
    start = prompt.index(subject)
    text = prompt[:start] + other + prompt[start + len(subject) :]
    after = locate_span(tokenizer, text, start, start + len(other))
    if (after.begin, after.end, len(after.ids)) != (before.begin, before.end, len(before.ids)):
        raise InputError(
            f"{other!r} has {after.end - after.begin} tokens and {subject!r} has {before.end - before.begin}; "
            "swap a subject for one with equally many tokens"
        )
    if (after.ids[: before.begin], after.ids[before.end :]) != (
        before.ids[: before.begin],
        before.ids[before.end :],
    ):
        raise InputError(f"{other!r} in the place of {subject!r} changes the tokens around it")
    return after.ids


def find_swaps(
    tokenizer: PreTrainedTokenizerBase, facts: Sequence[tuple[str, str, str | None]]
) -> dict[tuple[str, str], list[int]]:
    """Replace the subject of each prompt by another subject of the set. Returns token ids by (prompt, subject).

    The new subject is the next one with the same number of tokens and, if answers are given, a different answer. A
    prompt without such a subject is omitted.
    """
    swaps: dict[tuple[str, str], list[int]] = {}
    for number, (prompt, subject, answer) in enumerate(facts):
        for _, other, other_answer in (*facts[number + 1 :], *facts[:number]):
            if other == subject or (answer is not None and other_answer == answer):
                continue
            try:
                swaps[prompt, subject] = swap_subject(tokenizer, prompt, subject, other)
            except InputError:
                continue
            break
    return swaps


@dataclass
class CorruptedRun:
    """One forward pass over clean and corrupted rows of facts with equal numbers of tokens.

    `corrupted`, `[facts * samples]`, are the corrupted rows; `clean[i]` is the clean row of `corrupted[i]`. `answers`,
    `[facts]`, is the first token id that each clean row predicts, `high` its probability in the clean row, `low` its
    mean probability in the corrupted rows.
    """

    decoder: Decoder
    facts: list[LocatedPrompt]
    samples: int
    run: Run
    corrupted: Tensor
    clean: Tensor
    answers: Tensor
    high: list[float]
    low: list[float]
    _resumptions: dict[tuple[int, int], Resumption] = field(default_factory=dict)

    def resume(self, start: int, stop: int | None = None) -> Resumption:
        """The run resumed for positions [start, stop); cached, since all kinds of trace use it."""
        key = (start, self.run.length if stop is None else stop)
        if key not in self._resumptions:
            self._resumptions[key] = self.decoder.resume(self.run, *key)
        return self._resumptions[key]

    @property
    def shape(self) -> LocatedPrompt:
        """The first fact; its length and the position of its subject are those of all facts."""
        return self.facts[0]

    def probability(self, logits: Tensor) -> Tensor:
        """p(answer), mean over samples: `[variants * facts * samples, vocabulary]` -> `[variants, facts]` float32."""
        probabilities = logits.float().softmax(-1).view(-1, len(self.facts), self.samples, logits.shape[-1])
        answers = self.answers.view(1, -1, 1, 1).expand(*probabilities.shape[:3], 1)
        return probabilities.gather(-1, answers)[..., 0].mean(-1)


def run_corrupted(decoder: Decoder, facts: Sequence[LocatedPrompt], corruption: Corruption) -> CorruptedRun:
    """Run facts of equal shape, clean and corrupted, and capture all states that a trace restores."""
    rows_per_fact = 1 + corruption.samples
    ids = torch.tensor([row for fact in facts for row in corruption.rows(fact)], device=decoder.device)
    run = decoder.run(ids, embedding_edit=corruption.edit(facts[0]), capture=("attn", "mlp"))
    first = torch.arange(len(facts), device=decoder.device) * rows_per_fact
    clean = first.repeat_interleave(corruption.samples)
    corrupted = clean + 1 + torch.arange(corruption.samples, device=decoder.device).repeat(len(facts))
    with torch.no_grad():
        logits = decoder.logits(run.states[-1][:, -1:])[:, 0].float()
    high, answers = logits[first].softmax(-1).max(-1)
    result = CorruptedRun(
        decoder, list(facts), corruption.samples, run, corrupted, clean, answers, high.tolist(), []
    )
    result.low = result.probability(logits[corrupted])[0].tolist()
    return result
