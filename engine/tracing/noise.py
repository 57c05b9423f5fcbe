"""Draw noise for a subject's embeddings by a `NoiseRule`, as published (Meng et al. 2022, `causal_trace.py`).

All draws use `numpy.random.RandomState(seed)` as published, so that scores can be compared number for number.
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
from .rules import NoiseRule

# Documents, and tokens of each, whose embeddings give the mean and covariance of `m` and `t`.
_DOCUMENTS = 200
_MAX_LENGTH = 100
# The published seed of the chi-square draws of Student's t.
_STUDENT_SEED = 2


@dataclass(frozen=True)
class Noise:
    """A noise rule fitted to a model. `level` is its standard deviation or bound, None if it has no single one."""

    level: float | None
    _transform: Callable[[Tensor], Tensor]
    _is_uniform: bool = False

    def draw(self, samples: int, tokens: int, width: int, seed: int) -> Tensor:
        """Noise, float32 `[samples, tokens, width]`; the same for every cell of a trace."""
        random = np.random.RandomState(seed)
        size = (samples, tokens, width)
        values = random.uniform(-1, 1, size) if self._is_uniform else random.randn(*size)
        return self._transform(torch.from_numpy(values)).float()


def fit_noise(
    rule: NoiseRule,
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    subjects: Sequence[str],
    texts: Corpus | None = None,
) -> Noise:
    """Fit a rule to a model and the traced subjects. `m` and `t` require `texts`.

    Raises:
        InputError: the rule requires texts and there are none.
    """
    if rule.kind == "subjects":
        # Each subject is tokenized alone. Repeated subjects count.
        rows = [tokenizer(subject)["input_ids"] for subject in subjects]
        std = torch.cat([_embed(decoder, row).flatten() for row in rows]).std().item()
        return gaussian(rule.value * std)
    if rule.kind == "gaussian":
        return gaussian(rule.value)
    if rule.kind == "uniform":
        return uniform(rule.value)
    if texts is None:
        raise InputError("this noise is fitted to running text; choose texts")
    mean, covariance = _embedding_moments(decoder, tokenizer, texts)
    if rule.kind == "multivariate":
        return multivariate(mean, covariance)
    return student(mean, covariance, rule.value)


def gaussian(level: float) -> Noise:
    """Independent Gaussian noise with one standard deviation."""
    return Noise(level, lambda values: values * level)


def uniform(level: float) -> Noise:
    """Uniform noise in [-level, level]."""
    return Noise(level, lambda values: values * level, _is_uniform=True)


def multivariate(mean: Tensor, covariance: Tensor) -> Noise:
    """Gaussian noise with a mean `[d]` and covariance `[d, d]`, float64."""
    return Noise(None, _coloring(mean, covariance))


def student(mean: Tensor, covariance: Tensor, degrees: float) -> Noise:
    """Student's t: `multivariate` noise, scaled per token by sqrt((degrees - 2) / chi-square(degrees))."""
    color = _coloring(mean, covariance)

    def transform(values: Tensor) -> Tensor:
        vectors = values.shape[:-1]
        # The published code draws 1000 values from this seed. Fewer or more draws start with the same values.
        chi = np.random.RandomState(_STUDENT_SEED).chisquare(df=degrees, size=vectors.numel())
        return torch.from_numpy(np.sqrt((degrees - 2) / chi)).reshape(*vectors, 1) * color(values)

    return Noise(None, transform)


def _coloring(mean: Tensor, covariance: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from white noise `[.., d]` to noise with this mean and covariance."""
    _, variances, directions = torch.linalg.svd(covariance)
    weight = directions.T * variances.sqrt()
    return lambda values: values @ weight.T + mean


def _embedding_moments(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, texts: Corpus
) -> tuple[Tensor, Tensor]:
    """Mean `[d]` and covariance `[d, d]` of the embeddings of some documents' tokens, float64."""
    rows = []
    for _, text in zip(range(_DOCUMENTS), texts.documents(seed=1), strict=False):
        ids = tokenizer(text, truncation=True, max_length=_MAX_LENGTH)["input_ids"]
        rows.append(_embed(decoder, ids).double())
    vectors = torch.cat(rows).cpu()
    return vectors.mean(0), vectors.T.cov()


@torch.no_grad()
def _embed(decoder: Decoder, ids: Sequence[int]) -> Tensor:
    """Output of the embedding module, `[len(ids), d]` float32. Gemma's differs from its weight by a factor."""
    output: Tensor = decoder.embedding(torch.tensor([list(ids)], device=decoder.device))
    return output[0].float()
