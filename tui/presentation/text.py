"""Make text from models and users safe to display: one line, no control characters, no markup."""

import unicodedata

_VISIBLE = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
# Control, format (zero width, right-to-left overrides), half surrogates, private and unassigned, line ends.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def sanitize(text: str) -> str:
    """`text` as one line that cannot move the cursor, change colors or reorder its neighbors.

    Newlines become ⏎ and tabs ⇥; every other control or format character becomes a dot. Markup needs no escape: the
    result goes into `rich.text.Text`, never into a markup parser.
    """
    if text.isprintable():  # the common case, and much faster
        shown = text
    else:
        shown = "".join(
            _VISIBLE.get(char, "·" if unicodedata.category(char) in _HIDDEN else char) for char in text
        )
    # A leading combining mark would change the character before it, which belongs to other text.
    return "◌" + shown if shown and unicodedata.combining(shown[0]) else shown


def sanitize_lines(text: str) -> str:
    """`sanitize` for each line of a text."""
    return "\n".join(sanitize(line) for line in text.split("\n"))


def token_label(token: str) -> str:
    """A vocabulary token: like `sanitize`, but a token of spaces shows each space."""
    return "␣" * len(token) if token and not token.strip(" ") else sanitize(token)


def cut(text: str, width: int) -> str:
    """At most `width` terminal columns of `text`; a shortened text ends in …."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…" if width > 0 else ""
