"""The jobs pane: running, queued and ended jobs."""

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from .....engine.jobs import control
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from .....store.states import ALIVE_STATES
from ....cli_equivalent import command
from ....presentation.format import (
    format_activity,
    format_count,
    format_duration,
    format_rate,
    format_size,
    plural,
)
from ...data.jobs import JOB, JOBS, JobDetail, JobRow, read_log_tail
from ...data.rows import UnreadableRow
from ...widgets.row_lines import Cells, Column, bar
from ..base.pane import Pane, Parts, RunAction
from .text import STATES, job_parts

_BAR = 10
_MAX_NAMED = 3


class JobsPane(Pane):
    """The jobs, newest first."""

    heading, noun = "Jobs", "job"
    listing, detail_listing = JOBS, JOB
    columns = (
        Column("state", 13),
        Column("id", 6),
        Column("kind", 10, drop=2),
        Column("about", least=28),
        Column("progress", 15, drop=1),
        Column("rate", 16, drop=4),
        Column("left", 7, drop=3),
        Column("now", 30, drop=5),
    )
    empty = "No jobs yet: adding a model, tracing and editing are jobs."
    write_actions = frozenset({"cancel", "resume", "remove", "move"})
    BINDINGS: ClassVar[list[BindingType]] = [
        # Not k: that moves the cursor up everywhere else.
        Binding(
            "K,ctrl+k", "cancel", "cancel", key_display="K", tooltip="stop this job at its next checkpoint"
        ),
        Binding("r", "resume", "resume", tooltip="resume a stopped job from its checkpoint"),
        Binding("less_than_sign", "move(True)", "sooner", key_display="<", show=False,
                tooltip="move this queued job one place up"),
        Binding("greater_than_sign", "move(False)", "later", key_display=">", show=False,
                tooltip="move this queued job one place down"),
        Binding("L", "log", "log", tooltip="the complete log: follow, search, wrap"),
        Binding("D", "remove", "remove", show=False, tooltip="remove this ended job and its log"),
    ]  # fmt: skip

    def __init__(self, catalog: Catalog, id: str) -> None:
        super().__init__(catalog, id)
        self._shown: JobDetail | UnreadableRow | None = None
        self._log: tuple[Path, int, float] | None = None
        self._tail: list[str] = []

    def cells(self, data: JobRow) -> Cells:
        symbol, style = STATES[data.state]
        word = "stopping" if data.is_active and data.stop_request else data.state
        return (
            Text(f"{symbol} {word}", style=style),
            str(data.id),
            data.kind,
            data.about,
            _progress(data),
            format_rate(data.rate, data.unit) if data.is_active and data.rate else "",
            format_duration(data.seconds_left if data.is_active else None),
            format_activity(data.activity, data.detail) if data.is_active else data.error or "",
        )

    def parts(self, data: JobDetail) -> Parts:
        return job_parts(data, self._log_path(), self._tail)

    def show_detail(self, *, is_new_row: bool) -> None:
        self._shown = self.load_detail()
        self._read_log()
        self.show_text(self._shown, is_new_row=is_new_row)

    def tick(self) -> None:
        """Read the log: the job writes this file without changing the catalog."""
        if self._read_log():
            self.show_text(self._shown, is_new_row=False)

    def _read_log(self) -> bool:
        """Read the end of the log if it changed; returns whether it did."""
        path = self._log_path()
        try:
            status = path.stat()
            state = (path, status.st_size, status.st_mtime)
        except OSError:
            state = (path, 0, 0.0)
        if state == self._log:
            return False
        self._log, self._tail = state, read_log_tail(path)
        return True

    def _log_path(self) -> Path:
        return self.catalog.home.job_log(int(self.rows.key or 0))

    def _selected_in(self, states: Collection[str]) -> list[JobRow]:
        """The selected jobs that are in one of the states."""
        rows = [row.value for row in self.rows.selected_rows]
        return [row for row in rows if isinstance(row, JobRow) and row.state in states]

    def action_cancel(self) -> None:
        jobs = self._selected_in(ALIVE_STATES)
        if not jobs:
            raise InputError("only a queued, waiting or running job can be cancelled")
        catalog, ids = self.catalog, [row.id for row in jobs]

        def cancel() -> str:
            ended = [control.request_stop(catalog, id).state not in ALIVE_STATES for id in ids]
            if len(ids) > 1:
                return f"{plural(sum(ended), 'job')} cancelled, {len(ids) - sum(ended)} stop at the next checkpoint"
            return f"job {ids[0]} {'is cancelled' if ended[0] else 'stops at its next checkpoint'}"

        names = "; ".join(f"job {row.id} ({row.kind}: {row.about})" for row in jobs[:_MAX_NAMED])
        more = f" and {len(jobs) - _MAX_NAMED} more" if len(jobs) > _MAX_NAMED else ""
        question = f"Cancel {names}{more}?\nIts checkpoint is kept. Press r to resume."
        self.confirm(question, "Cancel the job" + "s" * (len(ids) > 1), _each("cancel", ids), cancel)

    def action_resume(self) -> None:
        ids = [row.id for row in self._selected_in(("interrupted", "paused", "failed", "cancelled"))]
        if not ids:
            raise InputError("only an interrupted, paused, failed or cancelled job can be resumed")
        catalog = self.catalog

        def resume() -> str:
            for id in ids:
                control.resume(catalog, id)
            return f"resumed job{'s' * (len(ids) > 1)} {', '.join(map(str, ids))} from the checkpoint"

        self.post_message(RunAction(_each("resume", ids), resume))

    def action_move(self, sooner: bool) -> None:
        row = self.selected(JobRow)
        if row is None or row.state not in ("queued", "waiting"):
            raise InputError("only queued jobs have a priority")
        catalog, id = self.catalog, row.id

        def move() -> str:
            from .....store import jobs

            with catalog.write() as session:
                return f"job {id} has priority {jobs.move_in_queue(session, id, sooner=sooner).priority}"

        self.post_message(RunAction(command("job", "move", id, "--sooner" if sooner else "--later"), move))

    def action_log(self) -> None:
        if self.rows.key is not None:
            from .log_view import LogView

            self.app.push_screen(LogView(self._log_path(), f"Log of job {self.rows.key}"))

    def action_remove(self) -> None:
        row = self.selected(JobRow)
        if row is None or row.is_active:
            raise InputError("only ended jobs can be removed: cancel it first")
        catalog, id = self.catalog, row.id
        log = self._log_path()
        freed = format_size(log.stat().st_size if log.exists() else 0)
        question = (
            f"Remove job {id} ({row.kind}: {row.about}) and its log ({freed})?\n"
            "Its results are kept. This cannot be undone."
        )

        def remove() -> str:
            from ....actions.jobs import remove_jobs

            remove_jobs(catalog, [id])
            return f"Removed job {id}."

        self.confirm(question, "Remove", command("job", "remove", id), remove)


def _each(verb: str, ids: list[int]) -> str:
    """One command per job."""
    return " && ".join(command("job", verb, id, "--detach") for id in ids)


def _progress(row: JobRow) -> str | Text:
    """A bar if the total is known; else the current activity or the duration."""
    if row.is_active:
        if row.total:
            part = row.done / row.total
            return f"{bar(part, _BAR)} {part:4.0%}"
        done = f"{format_count(row.done)} {row.unit}" if row.done else ""
        return format_activity(row.activity, row.detail) or done
    # The clock may have been set back.
    if row.started is not None and row.ended is not None and row.ended >= row.started:
        return f"took {format_duration((row.ended - row.started).total_seconds())}"
    return ""
