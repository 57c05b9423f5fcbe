"""Kinds of causal trace and noise rules. Imports no torch, so that jobs and the app can check settings with it."""

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..model.roles import Role

# hidden: one block's output. mlp, attn: that part's output over a window of blocks. severed-*: one block's output,
# while that part of the token keeps its corrupted output.
Kind = Literal["hidden", "mlp", "attn", "severed-mlp", "severed-attn"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn", "severed-mlp", "severed-attn")
SEVERED: dict[Kind, Role] = {"severed-mlp": "mlp", "severed-attn": "attn"}
WINDOWED: dict[Kind, Role] = {"mlp": "mlp", "attn": "attn"}

# Scores of one kind: `[token][layer]`, None for a cell that is not traced.
Scores = list[list[float | None]]


def window_blocks(layer: int, window: int, layers: int) -> tuple[int, int]:
    """The blocks `[first, stop)` in a window around `layer`, as in the published code (Meng et al. 2022)."""
    return max(0, layer - window // 2), min(layers, layer - (-window // 2))


_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_FORMS = {
    "subjects": rf"{_NUMBER}s",
    "gaussian": _NUMBER,
    "uniform": rf"u{_NUMBER}",
    "multivariate": "m",
    "student": rf"t{_NUMBER}",
}


@dataclass(frozen=True)
class NoiseRule:
    """How to draw noise for a subject's embeddings; `tracing.noise` fits it to a model. `value` is its number.

    3s     subjects: Gaussian, 3 standard deviations of the subjects' embeddings (the published default)
    0.4    gaussian: Gaussian with this standard deviation
    u0.5   uniform: uniform in [-0.5, 0.5]
    m      multivariate: Gaussian with the mean and covariance of the embeddings of running text
    t3     student: Student's t with 3 degrees of freedom, scaled to that mean and covariance
    """

    kind: str
    value: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "NoiseRule":
        """Read `3s`, `0.4`, `u0.5`, `m` or `t3`.

        Raises:
            InputError: the text has none of these forms, or its number is out of range.
        """
        for kind, form in _FORMS.items():
            if match := re.fullmatch(form, text.strip()):
                value = float(match[1]) if match.groups() else 1.0
                if kind == "student" and value <= 2:
                    raise InputError(
                        f"the noise {text!r} needs more than 2 degrees of freedom: below, its variance is infinite"
                    )
                if value > 0:
                    return cls(kind, value)
        raise InputError(
            f"invalid noise {text!r}: use 3s (standard deviations of the subjects), 0.4 (a standard deviation), "
            "u0.5 (uniform), m (multivariate) or t3 (Student's t)"
        )

    @property
    def needs_texts(self) -> bool:
        """Whether the rule is fitted to the embeddings of running text."""
        return self.kind in ("multivariate", "student")
