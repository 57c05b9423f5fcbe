"""Parse values that a person types, for the command line and for forms."""

import re

from ...engine.tracing.rules import KINDS
from ...store.errors import InputError

TOKENS = ("all", "subject-last")
MAX_LAYERS = 10_000
MAX_SAMPLES = 1000
# The largest row id of SQLite and the largest seed of NumPy.
MAX_ID = 2**63 - 1
MAX_SEED = 2**32 - 1


def parse_kinds(text: str) -> list[str]:
    """`hidden,mlp`: kinds of trace, returned in the order of KINDS. Raises InputError."""
    kinds = [part.strip() for part in text.split(",") if part.strip()]
    if not kinds or any(kind not in KINDS for kind in kinds):
        raise InputError(f"{text!r} is not a valid list of kinds. Use some of {', '.join(KINDS)}.")
    return [kind for kind in KINDS if kind in kinds]


def parse_layers(text: str) -> list[int]:
    """`5`, `3-8`, `1,4,7-9`: layer numbers, sorted. Raises InputError."""
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or not int(match[1]) <= int(match[2] or match[1]) < MAX_LAYERS:
            raise InputError(f"{text!r} is not a valid list of layers. Write 5, 3-8 or 1,4,7-9.")
        layers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(layers)


def parse_size(text: str) -> int:
    """`500MB`, `5GB`, `1GiB`: a number of bytes. Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    size = 0
    if match:
        unit = 1024 if match[3] else 1000
        size = round(float(match[1]) * unit ** " KMGT".index(match[2].upper() or " "))
    if not 1 <= size <= MAX_ID:
        raise InputError(f"{text!r} is not a valid size. Write for example 500MB or 5GB.")
    return size


def parse_integer(name: str, text: str, least: int, most: int) -> int:
    """A decimal number of a form's field. Raises InputError if it is outside `least` to `most`."""
    digits = text.strip().replace(",", "")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and least <= int(digits) <= most):
        raise InputError(f"{name} must be a whole number from {least} to {most}")
    return int(digits)


def parse_tolerance(text: str) -> float | None:
    """A tolerance of convergence; None for an empty text. Raises InputError."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise InputError("the tolerance must be a number above 0 and at most 1, or empty")
    return value
