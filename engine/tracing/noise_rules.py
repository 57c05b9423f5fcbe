"""The forms of a noise rule as a person gives it (see engine.noise, which fits and draws them). Loads no torch."""

import re
from typing import Literal

from ..errors import InputError

RuleKind = Literal["subjects", "gaussian", "uniform", "multivariate", "student"]

# Those that are fitted to the embeddings of running text.
FITTED: tuple[RuleKind, ...] = ("multivariate", "student")

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_FORMS: tuple[tuple[RuleKind, str], ...] = (
    ("subjects", rf"{_NUMBER}s"),
    ("gaussian", _NUMBER),
    ("uniform", rf"u{_NUMBER}"),
    ("multivariate", "m"),
    ("student", rf"t{_NUMBER}"),
)


def parse_rule(text: str) -> tuple[RuleKind, float]:
    """Read `3s`, `0.4`, `u0.5`, `m` or `t3`: the kind and the number in it (1 where it has none).

    Raises:
        InputError: it is none of them, or its number is out of range.
    """
    for kind, form in _FORMS:
        if match := re.fullmatch(form, text.strip()):
            value = float(match[1]) if match.groups() else 1.0
            if kind == "student" and value <= 2:
                raise InputError(
                    f"the noise {text!r} needs more than 2 degrees of freedom, to have a variance"
                )
            if value > 0:
                return kind, value
    raise InputError(
        f"the noise {text!r} is none of 3s (standard deviations of the subjects), 0.4 (a number above zero), "
        "u0.5 (uniform), m (multivariate) and t3 (Student's t)"
    )


def needs_texts(rule: str) -> bool:
    """Whether a rule is fitted to the embeddings of running text. Raises InputError as `parse_rule` does."""
    return parse_rule(rule)[0] in FITTED
