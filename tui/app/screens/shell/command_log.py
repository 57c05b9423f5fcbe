"""The commands of this session."""

from collections.abc import Sequence

from rich.text import Text

from ....presentation.text import sanitize


def describe_commands(commands: Sequence[tuple[str, str]]) -> Text:
    """The commands, oldest first, each with its outcome."""
    text = Text("Commands of this session\n", style="bold")
    for cli_equivalent, outcome in commands:
        if cli_equivalent:
            text.append(f"$ {sanitize(cli_equivalent)}\n", style="green")
        text.append(f"  {sanitize(outcome)}\n", style="bold red" if outcome.startswith("✗") else "dim")
    if not commands:
        text.append("None yet. Each action in the app appears here as the equivalent command.")
    return text
