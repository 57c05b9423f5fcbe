"""From what a trace found to the heat map that shows it, and to the line that tells one cell."""

from collections.abc import Collection

from rich.text import Text

from ..data.traces import KINDS, Effects, ResultView, TraceRow
from ..plain import plain, token_label
from ..widgets.heat_map import Picture
from .show import some

_RESTORED = {"hidden": "one state", "mlp": "MLP", "attn": "attention"}


def draw_result(result: ResultView, kind: str, *, stretch: bool) -> Picture:
    """One fact. The scale runs from the corrupted to the clean run; `stretch`: to the highest cell."""
    scores = result.kinds[kind]
    high = result.high
    if stretch:
        high = max((value for row in scores.rows for value in row if value is not None), default=high)
    what = _RESTORED[kind] if scores.window == 1 else f"{_RESTORED[kind]} of {scores.window} layers"
    title = f"{_kinds(kind, result.kinds)} · p({plain(result.answer.strip())}) with {what} restored"
    return Picture(result.tokens, result.subject_range, scores.rows, result.low, high, title)


def draw_effects(effects: Effects, kind: str, kinds: Collection[str]) -> Picture:
    """The average over the facts of a set: the roles of tokens down, layers across."""
    values = [value for row in effects.means for value in row if value is not None]
    subject = sum("subject" in role for role in effects.roles)
    facts = max((count for _, _, count in effects.intervals.values()), default=0)
    title = f"{_kinds(kind, kinds)} · average indirect effect over {some(facts, 'fact')}"
    low, high = min(0.0, *values), max(0.0, *values)
    return Picture(effects.roles, (0, subject), effects.means, low, high, title, "AIE")


def cell_text(shown: Effects | ResultView, kind: str, token: int, layer: int) -> Text:
    """What is under the cursor, in numbers."""
    if isinstance(shown, Effects):
        name = shown.roles[token]
        text = Text.assemble((f"{name} · layer {layer}: ", "bold"))
        mean = shown.means[token][layer]
        if mean is None:
            return text.append("not traced")
        low, high, count = shown.intervals[token, layer]
        return text.append(f"AIE {mean:+.4f} ({low:+.4f} to {high:+.4f}, {some(count, 'fact')})")
    begin, end = shown.subject_range
    name = token_label(shown.tokens[token]).strip() + ("*" if begin <= token < end else "")
    text = Text.assemble((f"{name} · layer {layer}: ", "bold"))
    value = shown.kinds[kind].rows[token][layer]
    if value is None:
        text.append("not traced")
    else:
        text.append(f"p {value:.4f} ({value - shown.low:+.4f})")
    return text.append(f"  clean {shown.high:.3f}, corrupted {shown.low:.3f}", style="dim")


def settings_text(trace: TraceRow, result: ResultView | None) -> Text:
    """Below a map: what was asked, and the settings that decide its numbers."""
    text = Text()
    if result is not None:
        text.append(f"\nprompt   {plain(result.prompt)}\nsubject  {plain(result.subject)}")
    level = "" if trace.noise_level is None else f" = {trace.noise_level:.4g}"
    noise = f"noise {trace.noise}{level}, {trace.samples} samples, seed {trace.seed}"
    text.append(f"\n{plain(trace.model)}@{trace.revision}, {noise}")
    text.stylize("dim")
    return text


def _kinds(kind: str, kinds: Collection[str]) -> str:
    """`[hidden] mlp attn`: which are there, and which is shown."""
    return " ".join(f"[{one}]" if one == kind else one for one in KINDS if one in kinds)
