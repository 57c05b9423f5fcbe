"""The anatomy of a model as a drawing, with the matrix that an edit changes."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from ....presentation.text import sanitize

_WIDTH = 46


def draw_anatomy(anatomy: Mapping[str, Any]) -> list[Text]:
    """The path from the tokens to the next token; a mark shows the edited matrix."""
    matrix = str(anatomy.get("matrix", "?"))
    mlp = str(anatomy.get("mlp", "?"))
    inside = matrix.removeprefix(f"{mlp}.")
    norm = anatomy.get("mlp_norm")
    attention = str(anatomy.get("attention", "?"))
    layers, width = anatomy.get("layers", "?"), anatomy.get("width", "?")
    after = f" → {norm}" if norm else ""
    if anatomy.get("parallel"):
        body = [f"┬→ {attention} ─┐", f"└→ {mlp}{after} ─┴→ + →"]
    else:
        body = [f"─→ {attention} → + →", f"─→ {mlp}{after} → + →"]
    lines = [
        Text(f" tokens → {sanitize(str(anatomy.get('embedding', '?')))} ({width} wide)"),
        Text(_edge("┌", "┐", f" {sanitize(str(anatomy.get('blocks', '?')))} × {layers} ")),
        *(_inside(sanitize(line)) for line in body),
        _inside(f"   ▲ {sanitize(inside)}: keys of {anatomy.get('key_width', '?')}", style="bold"),
        Text(_edge("└", "┘", "")),
    ]
    tied = " (tied to the embedding)" if anatomy.get("tied_head") else ""
    lines.append(
        Text(
            f" {sanitize(str(anatomy.get('final_norm', '?')))} → {sanitize(str(anatomy.get('head', '?')))}{tied}"
        )
    )
    return lines


def _edge(left: str, right: str, name: str) -> str:
    return f" {left}{name}{'─' * max(0, _WIDTH - len(name))}{right}"


def _inside(text: str, style: str = "") -> Text:
    return Text.assemble(" │ ", (f"{text:<{_WIDTH - 1}}"[: _WIDTH - 1], style), "│")
