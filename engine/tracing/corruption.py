"""The corrupted runs of a trace: noise on the subject's embeddings, or another subject in its place.

A batch holds facts of equal shape (tokens, subject begin and end), each as one clean row and then its corrupted rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model.decoder import Decoder, Edit, Resumption, Run
from ..model.tokens import Located
from .noise import Noise


@dataclass(frozen=True)
class NoiseCorruption:
    """`samples` draws of noise, the same for every fact; added to the embeddings, or in their place (`replace`)."""

    noise: Noise
    samples: int = 10
    seed: int = 1
    replace: bool = False

    def rows(self, fact: Located) -> list[list[int]]:
        """Token ids of a fact's rows, the clean one first."""
        return [fact.ids] * (1 + self.samples)

    def edit(self, fact: Located) -> Edit | None:
        """What to do to the embeddings `[facts * (1 + samples), T, d]` of facts shaped like this one."""

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
    """One corrupted row: the same prompt about another subject of as many tokens.

    `swapped` maps (prompt, subject) to that row's ids.
    """

    swapped: dict[tuple[str, str], list[int]]
    samples: int = 1

    def rows(self, fact: Located) -> list[list[int]]:
        """The clean row and the other subject's."""
        return [fact.ids, self.swapped[fact.prompt, fact.subject]]

    def edit(self, fact: Located) -> Edit | None:
        """Nothing: the tokens themselves differ."""
        return None


Corruption = NoiseCorruption | SwapCorruption


@dataclass
class Corrupted:
    """Clean and corrupted runs of facts of equal shape, with what a trace needs to know of them.

    `rows` are the corrupted rows of the run in order, `clean` for each of them its fact's clean row, `answers` the
    clean first choice of each fact, `high` and `low` its probability in the clean and (on average) corrupted runs.
    """

    decoder: Decoder
    facts: list[Located]
    samples: int
    run: Run
    rows: Tensor
    clean: Tensor
    answers: Tensor
    high: list[float]
    low: list[float]
    _resumptions: dict[tuple[int, int], Resumption] = field(default_factory=dict)

    def resume(self, start: int, stop: int | None = None) -> Resumption:
        """The run resumed for positions [start, stop); kinds of trace share it."""
        key = (start, self.run.length if stop is None else stop)
        if key not in self._resumptions:
            self._resumptions[key] = self.decoder.resume(self.run, *key)
        return self._resumptions[key]

    @property
    def shape(self) -> Located:
        """Any of the facts: tokens and subject stand at the same places in all."""
        return self.facts[0]

    def probability(self, logits: Tensor) -> Tensor:
        """p(answer), mean over samples: `[variants * facts * samples, vocabulary]` -> `[variants, facts]`."""
        probabilities = logits.float().softmax(-1).view(-1, len(self.facts), self.samples, logits.shape[-1])
        answers = self.answers.view(1, -1, 1, 1).expand(*probabilities.shape[:3], 1)
        return probabilities.gather(-1, answers)[..., 0].mean(-1)


def run_corrupted(decoder: Decoder, facts: Sequence[Located], corruption: Corruption) -> Corrupted:
    """Run facts of equal shape, clean and corrupted, keeping everything that a trace restores."""
    each = 1 + corruption.samples
    ids = torch.tensor([row for fact in facts for row in corruption.rows(fact)], device=decoder.device)
    run = decoder.run(ids, embedding_edit=corruption.edit(facts[0]), capture=("attn", "mlp"))
    first = torch.arange(len(facts), device=decoder.device) * each
    clean = first.repeat_interleave(corruption.samples)
    rows = clean + 1 + torch.arange(corruption.samples, device=decoder.device).repeat(len(facts))
    with torch.no_grad():
        logits = decoder.logits(run.states[-1][:, -1:])[:, 0].float()
    probabilities = logits[first].softmax(-1)
    high, answers = probabilities.max(-1)
    corrupted = Corrupted(
        decoder, list(facts), corruption.samples, run, rows, clean, answers, high.tolist(), []
    )
    corrupted.low = corrupted.probability(logits[rows])[0].tolist()
    return corrupted
