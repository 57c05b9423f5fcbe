"""The detail text of a job, with the end of its log."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from ....presentation.format import (
    format_activity,
    format_amount,
    format_duration,
    format_path,
    format_rate,
    format_size,
    format_time,
)
from ....presentation.text import cut, sanitize
from ...data.jobs import JobDetail
from ...widgets.detail import error_text, fields, title
from ...widgets.row_lines import bar
from ..base.pane import Parts

# Symbol and style of each state.
STATES = {
    "queued": ("·", ""),
    "waiting": ("…", "yellow"),
    "running": ("▶", "bold green"),
    "done": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "cancelled": ("–", "dim"),
    "paused": ("‖", "yellow"),
    "interrupted": ("!", "bold yellow"),
}
_MAX_VALUE_WIDTH = 200
_MAX_LOG_LINES = 200


def job_parts(job: JobDetail, path: Path, log: Sequence[str]) -> Parts:
    """Errors first, then progress, times, result, settings and log."""
    symbol, style = STATES[job.state]
    state = Text(f"{symbol} {job.state}", style=style)
    if job.is_active and job.stop_request:
        state.append("  stops at its next checkpoint", style="yellow")
    parts: Parts = [title(f"Job {job.id}: {job.kind}, {job.about}"), state]
    if job.error:
        parts.append(error_text(job.error))
    if job.state == "paused":
        parts.append(
            Text("Paused: its device is free. Press r to resume from the last checkpoint.", style="yellow")
        )
    if job.state == "interrupted":
        text = "Its process ended early. Press r to resume from the last checkpoint."
        parts.append(Text(text, style="yellow"))
    if job.is_active and job.total:
        part = job.done / job.total
        done = f"{format_amount(job.done)} of {format_amount(job.total)} {sanitize(job.unit)}"
        parts.append(Text(f"{bar(part, 30)} {part:.0%}  {done}"))
    parts += [
        fields(
            ("now", format_activity(job.activity, job.detail) if job.is_active else None),
            ("rate", format_rate(job.rate, job.unit) if job.is_active and job.rate else None),
            ("left", format_duration(job.seconds_left if job.is_active else None)),
            ("device", job.device),
            ("memory", format_size(job.memory) if job.is_active and job.memory is not None else None),
            ("process", f"{job.pid}, attempt {job.attempt}" if job.pid is not None else None),
            ("created", f"{format_time(job.created)} UTC"),
            ("started", f"{format_time(job.started)} UTC" if job.started is not None else None),
            ("ended", f"{format_time(job.ended)} UTC" if job.ended is not None else None),
            ("result", ", ".join(f"{name} {_value(value)}" for name, value in job.result.items())),
        ),
        "",
        title("Settings"),
        fields(*((name, _value(value)) for name, value in job.spec.items() if value)),
    ]
    if log:
        parts += [
            "",
            title(f"Log: {format_path(path)}"),
            *(Text(sanitize(line)) for line in log[-_MAX_LOG_LINES:]),
        ]
    return parts


def _value(value: object) -> str:
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        text = ", ".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return cut(sanitize(text), _MAX_VALUE_WIDTH)
