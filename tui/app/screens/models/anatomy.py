"""The anatomy of a model as a drawing, with the matrix that an edit changes."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from ....presentation.text import sanitize

_WIDTH = 46


def draw_anatomy(anatomy: Mapping[str, Any]) -> list[Text]:
    """The path from the tokens to the next token; a mark shows the edited matrix."""

    def name(part: str) -> str:
        return sanitize(str(anatomy.get(part, "?")))

    attention, mlp = name("attention"), name("mlp")
    after = f" → {name('mlp_norm')}" if anatomy.get("mlp_norm") else ""
    if anatomy.get("parallel"):
        body = [f"┬→ {attention} ─┐", f"└→ {mlp}{after} ─┴→ + →"]
    else:
        body = [f"─→ {attention} → + →", f"─→ {mlp}{after} → + →"]
    matrix = name("matrix").removeprefix(f"{mlp}.")
    tied = " (tied to the embedding)" if anatomy.get("tied_head") else ""
    return [
        Text(f" tokens → {name('embedding')} ({name('width')} wide)"),
        Text(_edge("┌", "┐", f" {name('blocks')} × {name('layers')} ")),
        *(_inside(line) for line in body),
        _inside(f"   ▲ {matrix}: keys of {name('key_width')}", style="bold"),
        Text(_edge("└", "┘", "")),
        Text(f" {name('final_norm')} → {name('head')}{tied}"),
    ]


def _edge(left: str, right: str, name: str) -> str:
    return f" {left}{name}{'─' * max(0, _WIDTH - len(name))}{right}"


def _inside(text: str, style: str = "") -> Text:
    return Text.assemble(" │ ", (f"{text:<{_WIDTH - 1}}"[: _WIDTH - 1], style), "│")
