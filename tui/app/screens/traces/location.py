"""The layers that a trace proposes to edit, with notes on the limits of the proposal."""

from rich.text import Text

from ....actions.locate import Location
from ....cli_equivalent import command
from ....presentation.text import sanitize
from ...data.averages import FactCounts
from ...widgets.detail import title
from ...widgets.row_lines import bar
from ..base.pane import Parts

_BAR = 30


def describe_location(trace_id: int, model: str, location: Location, counts: FactCounts) -> Parts:
    """The proposal, notes, and the curve of effects behind it."""
    layers = ", ".join(map(str, location.layers))
    plural = "s" * (len(location.layers) != 1)
    parts: Parts = [
        title(f"Trace {trace_id} proposes layer{plural} {layers}"),
        Text(f"{counts}. Total effect {location.total_effect:.3f}, the mean of p clean - p corrupted."),
    ]
    if any(reason == "wrong first choice" for reason, _ in counts.skipped_by_reason):
        parts.append(
            Text(
                "Wrong first choice: even the clean run does not predict the expected answer, so the trace has no "
                "effect to locate. This shows which facts the model knows, not where it stores them.",
                style="dim",
            )
        )
    parts.append("")
    parts += [Text(f"• {sanitize(note)}") for note in location.notes]
    parts += ["", title(f"Indirect effect of {location.kind} at the {location.role} token")]
    best = max((effect.mean for effect in location.curve), default=0.0) or 1.0
    for effect in location.curve:
        is_proposed = effect.layer in location.layers
        line = Text(f"{'▶' if is_proposed else ' '}{effect.layer:>3} {effect.mean:+.4f} ")
        if effect.count > 1:
            line.append(f"({effect.low:+.4f} to {effect.high:+.4f}) ", style="dim")
        line.append(bar(effect.mean / best, _BAR).rstrip("─"))
        line.stylize("bold" if is_proposed else "")
        parts.append(line)
    sweep = f"$ {command('edit', 'sweep', model, '--trace', trace_id)} --facts SET"
    return [
        *parts, "", "A sweep of edits shows which layer works best:", Text(sweep, style="green"),
        Text(f"$ {command('trace', 'locate', trace_id)}", style="green"),
    ]  # fmt: skip
