"""The keys that work in the current place, read from the bindings."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text
from textual.binding import Binding

_NAMES = {
    "question_mark": "?",
    "at": "@",
    "slash": "/",
    "colon": ":",
    "equals_sign": "=",
    "plus": "+",
    "minus": "-",
    "less_than_sign": "<",
    "greater_than_sign": ">",
    "comma": ",",
    "full_stop": ".",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "dollar_sign": "$",
    "asterisk": "*",
    "escape": "esc",
    "pagedown": "pgdn",
    "pageup": "pgup",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
}


def bindings_of(nodes: Sequence[Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(keys, description)]) of each node that defines bindings."""
    sections = []
    for node in nodes:
        lines: dict[str, list[str]] = {}
        for binding in type(node).BINDINGS:
            if not isinstance(binding, Binding) or not binding.description:
                continue
            keys = lines.setdefault(binding.tooltip or binding.description, [])
            keys += [_NAMES.get(key, key) for key in binding.key.split(",")]
        if lines:
            heading = getattr(node, "heading", "")
            sections.append(
                (heading, [(" ".join(dict.fromkeys(keys)), text) for text, keys in lines.items()])
            )
    return sections


def describe_keys(nodes: Sequence[Any]) -> Text:
    """The keys of each node, below its heading."""
    sections, text = bindings_of(nodes), Text()
    key_width = max(len(keys) for _, lines in sections for keys, _ in lines)
    for heading, lines in sections:
        if heading:
            text.append(f"{heading}\n", style="bold")
        for keys, description in lines:
            text.append(f"  {keys:<{key_width}}  ", style="bold cyan")
            text.append(f"{description}\n")
    return text
