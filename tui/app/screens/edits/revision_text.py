"""The detail text of a revision."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from .....engine.evaluation.metrics import METRICS
from .....prompts import fill_prompt
from ....presentation.format import format_time, plural, sparkline
from ....presentation.text import sanitize
from ...data.edits import EvaluationView, RevisionDetail
from ...data.rows import UnreadableRow
from ...widgets.detail import error_text, fields, title
from ...widgets.row_lines import bar
from ..base.pane import Parts

_ROWS = (
    ("ES", "PS", "NS", "S"),
    ("EM", "PM", "NM"),
    ("EA", "PA", "NA"),
    ("TE", "TP", "TN"),
    ("FE", "FP", "FN", "FC"),
    ("HA", "TH", "FH"),
    ("XA", "FX"),
    ("RA", "FR"),
    ("KN", "KG", "PPL", "PD"),
    ("GE", "RS", "ESS"),
)
_SHOWN = 12
_CURVE = 24
_BAR = 12


def revision_parts(
    revision: RevisionDetail, scores: Sequence[EvaluationView | UnreadableRow], status: str, *, head: bool
) -> Parts:
    """State, scores, requests and size of the change."""
    place = ", ".join(part for part in (status, "the head" if head else "") if part)
    return [
        title(f"{revision.id}: {revision.message}"),
        fields(
            ("state", place),
            ("parent", revision.parent),
            ("method", _method(revision)),
            ("covariances", ", ".join(map(str, revision.covariances))),
            ("fingerprint", f"{revision.fingerprint[:32]}…"),
            ("created", f"{format_time(revision.created)} UTC"),
        ),
        *_scores(scores),
        *_requests(revision),
        *_sizes(revision.statistics),
    ]


def _method(revision: RevisionDetail) -> str | None:
    if revision.method is None:
        return None
    layers = ", ".join(map(str, revision.hparams.get("layers", [])))
    return f"{revision.method} at layer {layers}, seed {revision.seed}"


def _requests(revision: RevisionDetail) -> Parts:
    if not revision.requests:
        return []
    figures: list[dict[str, Any]] = revision.statistics.get("requests", [])
    parts: Parts = ["", title(f"Requests ({len(revision.requests)})")]
    for index, request in enumerate(revision.requests[:_SHOWN]):
        prompt = fill_prompt(str(request["prompt"]), str(request["subject"]))
        text = Text(sanitize(prompt) + " ")
        text.append(f"→ {sanitize(str(request['target_new']).strip())}", style="bold")
        if request.get("target_true"):
            text.append(f"  (was {sanitize(str(request['target_true']))})", style="dim")
        parts.append(text)
        if index < len(figures):
            parts += _curve(figures[index])
    if len(revision.requests) > _SHOWN:
        parts.append(Text(f"and {len(revision.requests) - _SHOWN} more", style="dim"))
    return parts


def _curve(figures: dict[str, Any]) -> Parts:
    """The loss curve of the value search, and p(target) before and after, if measured."""
    parts: Parts = []
    losses = [float(step["loss"]) for step in figures.get("losses", [])]
    if losses:
        curve = sparkline(losses, _CURVE)
        parts.append(Text(f"  loss {losses[0]:.2f} {curve} {losses[-1]:.3f} in {len(losses)} steps"))
    before, after = figures.get("before"), figures.get("after")
    if before and after:
        parts.append(Text(f"  p(new) {before['probability']:.4f} → {after['probability']:.4f}"))
    return parts


def _sizes(figures: dict[str, Any]) -> Parts:
    """A line and a bar per matrix, relative to the largest change."""
    sizes: dict[str, dict[str, Any]] = figures.get("delta", {})
    parts: Parts = ["", title("Size of the change")] if sizes else []
    largest = max((float(size["relative"]) for size in sizes.values()), default=0.0) or 1.0
    for name, size in sizes.items():
        parts.append(Text(f"{sanitize(name)} {bar(float(size['relative']) / largest, _BAR).rstrip('─')}"))
        change = f"rank {size['rank']}, norm {size['norm']:.3g}, {size['relative']:.2%} of the matrix"
        parts.append(Text(f"  {change}; {size['effective']:.2%} left after rounding"))
    return parts


def _scores(evaluations: Sequence[EvaluationView | UnreadableRow]) -> Parts:
    parts: Parts = ["", title("Scores")]
    if not evaluations:
        return [*parts, Text("not evaluated yet: press s", style="dim")]
    for one in evaluations:
        if isinstance(one, UnreadableRow):
            parts.append(error_text(f"evaluation {one.id}: {one.reason}"))
            continue
        cases = max((count for _, _, _, count in one.scores.values()), default=0)
        parts.append(
            Text(
                sanitize(
                    f"{one.facts}, {plural(cases, 'case')}, evaluation {one.id}, {format_time(one.created)} UTC"
                )
            )
        )
        for row in _ROWS:
            known = [name for name in row if name in one.scores]
            if known:
                parts.append(Text("  " + "   ".join(f"{name} {_score(one.scores[name])}" for name in known)))
        parts += _beside_parent(one)
        parts += _retention(one)
    return parts


def _retention(one: EvaluationView) -> Parts:
    """How many requests of earlier edits are still the first choice."""
    if not one.retention:
        return []
    requests = sum(edit.requests for edit in one.retention)
    retained = sum(edit.first_choice for edit in one.retention)
    worst = sorted(one.retention, key=lambda edit: edit.first_choice / max(1, edit.requests))[:_SHOWN]
    lines = ", ".join(f"{edit.edit} {edit.first_choice}/{edit.requests}" for edit in worst)
    return [Text(f"  retention: {retained} of {requests} earlier requests ({lines}); M shows all revisions")]


def _beside_parent(one: EvaluationView) -> Parts:
    """The scores of the parent on the same cases, or the reason why they cannot be compared."""
    if one.parent is None:
        return [Text(sanitize(f"  {one.difference}"), style="dim")] if one.difference else []
    shared = [name for name in METRICS if name in one.scores and name in one.parent.scores]
    changes = [
        f"{name} {one.parent.scores[name][0]:.3f} → {one.scores[name][0]:.3f}"
        for name in shared
        if METRICS[name].over != "requests"
    ]
    return [Text(f"  parent's evaluation {one.parent.id}: {'   '.join(changes)}")]


def _score(score: tuple[float, float, float, int]) -> str:
    value, low, high, count = score
    return f"{value:.3f}" if count <= 1 else f"{value:.3f} ({low:.3f} to {high:.3f})"
