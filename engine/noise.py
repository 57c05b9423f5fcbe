"""How much noise corrupts a subject, and the published draw of it (Meng et al. 2022, causal_trace)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .decoder import Decoder
from .errors import InputError


@dataclass(frozen=True)
class NoiseRule:
    """`3s`: so many standard deviations of the subjects' embeddings; a bare number: that standard deviation."""

    factor: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> "NoiseRule":
        """Read `3s` or `0.4`.

        Raises:
            InputError: it is neither, or not above zero.
        """
        match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(s?)", text.strip())
        if not match or float(match[1]) <= 0:
            raise InputError(
                f"the noise {text!r} is neither a rule such as 3s nor a number above zero such as 0.4"
            )
        return cls(float(match[1]), bool(match[2]))

    def level(self, decoder: Decoder, tokenizer: PreTrainedTokenizerBase, subjects: Sequence[str]) -> float:
        """The standard deviation to draw with. For `3s`, from all tokens of the subjects, each tokenised alone."""
        if not self.relative:
            return self.factor
        outputs = []
        for subject in dict.fromkeys(subjects):
            ids = torch.tensor([tokenizer(subject)["input_ids"]], device=decoder.device)
            with torch.no_grad():
                # The module's output, not its weight: Gemma scales inside.
                outputs.append(decoder.embedding(ids).float().flatten())
        return self.factor * torch.cat(outputs).std().item()


def draw(samples: int, tokens: int, width: int, level: float, seed: int) -> Tensor:
    """The published draw, `RandomState(seed).randn(samples, tokens, width) * level`, as float32."""
    values = np.random.RandomState(seed).randn(samples, tokens, width)
    return torch.from_numpy(values * level).float()
