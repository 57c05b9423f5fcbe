"""How noise corrupts a subject's embeddings: the published rules and their draws (Meng et al. 2022, causal_trace).

    3s     Gaussian, three standard deviations of the subjects' embeddings (the usual one)
    0.4    Gaussian of that standard deviation
    u0.5   uniform in [-0.5, 0.5]
    m      Gaussian with the mean and covariance of the embeddings of running text
    t3     Student's t with 3 degrees of freedom, scaled to that mean and covariance

Each is drawn with `numpy.random.RandomState(seed)` as published, so that figures can be compared number for number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..covariance.corpus import Corpus
from ..errors import InputError
from ..model.decoder import Decoder
from .noise_rules import FITTED, RuleKind, parse_rule

# Documents whose tokens' embeddings give the mean and covariance of `m` and `t`.
_DOCUMENTS = 200
_MAX_LENGTH = 100
# The published seed of the chi-square draws that make a Gaussian a Student's t.
_STUDENT_SEED = 2


@dataclass(frozen=True)
class Noise:
    """A rule made ready for a model. `level` is its standard deviation or bound, None where it has no single one."""

    level: float | None
    _shape: Callable[[Tensor], Tensor]
    _uniform: bool = False

    def draw(self, samples: int, tokens: int, width: int, seed: int) -> Tensor:
        """The same draw for every cell of a trace, float32 `[samples, tokens, width]`."""
        random = np.random.RandomState(seed)
        size = (samples, tokens, width)
        values = random.uniform(-1, 1, size) if self._uniform else random.randn(*size)
        return self._shape(torch.from_numpy(values)).float()


@dataclass(frozen=True)
class NoiseRule:
    """A rule as a person gives it; `value` is the number in it."""

    kind: RuleKind
    value: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "NoiseRule":
        """Read `3s`, `0.4`, `u0.5`, `m` or `t3`.

        Raises:
            InputError: it is none of them, or its number is out of range.
        """
        return cls(*parse_rule(text))

    @property
    def needs_texts(self) -> bool:
        """Whether the rule is fitted to the embeddings of running text."""
        return self.kind in FITTED

    def fit(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        subjects: Sequence[str],
        texts: Corpus | None = None,
    ) -> Noise:
        """The rule for a model, the subjects that are traced, and for `m` and `t` some running text."""
        if self.kind == "subjects":
            return gaussian(self.value * _subjects_std(decoder, tokenizer, subjects))
        if self.kind == "gaussian":
            return gaussian(self.value)
        if self.kind == "uniform":
            return uniform(self.value)
        if texts is None:
            raise InputError("this noise rule is fitted to running text; name some")
        mean, covariance = _embedding_moments(decoder, tokenizer, texts)
        if self.kind == "multivariate":
            return multivariate(mean, covariance)
        return student(mean, covariance, self.value)


def gaussian(level: float) -> Noise:
    """Independent Gaussian noise of one standard deviation."""
    return Noise(level, lambda values: values * level)


def uniform(level: float) -> Noise:
    """Uniform noise in [-level, level]."""
    return Noise(level, lambda values: values * level, _uniform=True)


def multivariate(mean: Tensor, covariance: Tensor) -> Noise:
    """Gaussian noise with the mean `[d]` and covariance `[d, d]` of embeddings, float64."""
    return Noise(None, _coloring(mean, covariance))


def student(mean: Tensor, covariance: Tensor, degrees: float) -> Noise:
    """Student's t: `multivariate` noise, each token's times sqrt((degrees - 2) / chi-square(degrees))."""
    colored = _coloring(mean, covariance)

    def shape(values: Tensor) -> Tensor:
        vectors = values.shape[:-1]
        # One draw after another from one seed: however many are wanted, they begin as the published 1000 do.
        chi = np.random.RandomState(_STUDENT_SEED).chisquare(df=degrees, size=vectors.numel())
        return torch.from_numpy(np.sqrt((degrees - 2) / chi)).reshape(*vectors, 1) * colored(values)

    return Noise(None, shape)


def _coloring(mean: Tensor, covariance: Tensor) -> Callable[[Tensor], Tensor]:
    """White noise `[.., d]` -> noise with this mean and covariance."""
    _, spread, directions = torch.linalg.svd(covariance)
    weight = directions.T * spread.sqrt()
    return lambda values: values @ weight.T + mean


def _subjects_std(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, subjects: Sequence[str]) -> float:
    """Standard deviation of the embeddings of all tokens of all subjects, each tokenized alone, repeats counted."""
    rows = [tokenizer(subject)["input_ids"] for subject in subjects]
    return torch.cat([_embedded(decoder, row).flatten() for row in rows]).std().item()


def _embedding_moments(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, texts: Corpus
) -> tuple[Tensor, Tensor]:
    """Mean `[d]` and covariance `[d, d]` of the embeddings of some documents' tokens, float64."""
    rows = []
    for _, text in zip(range(_DOCUMENTS), texts.documents(seed=1), strict=False):
        ids = tokenizer(text, truncation=True, max_length=_MAX_LENGTH)["input_ids"]
        rows.append(_embedded(decoder, ids).double())
    vectors = torch.cat(rows).cpu()
    return vectors.mean(0), vectors.T.cov()


@torch.no_grad()
def _embedded(decoder: Decoder, ids: Sequence[int]) -> Tensor:
    """What the embedding module puts out, `[len(ids), d]` float32; not its weight, which Gemma scales."""
    output: Tensor = decoder.embedding(torch.tensor([list(ids)], device=decoder.device))
    return output[0].float()
