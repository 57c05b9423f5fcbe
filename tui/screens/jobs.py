"""The jobs pane: what works now, what waits, what has ended and how."""

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from ...engine import jobs
from ...store.catalog import Catalog
from ...store.tables import ENDED_STATES
from ..data.jobs import JobDetail, JobRow, job_detail, list_jobs, tail
from ..data.rows import Hurt
from ..twin import command
from ..widgets.rows import Column, Row, bar
from .job_text import STATES, job_parts
from .pane import Pane, Refused, Run
from .show import count, duration, rate

_BAR = 10


class JobsPane(Pane):
    """The jobs, newest first, as they go on."""

    heading = "Jobs"
    columns = (
        Column("state", 13),
        Column("id", 4),
        Column("kind", 10),
        Column("about", least=28),
        Column("progress", 15),
        Column("rate", 16, drop=2),
        Column("left", 7, drop=1),
        Column("now", 30, drop=3),
    )
    empty = "No jobs yet: adding a model, tracing and editing are jobs."
    BINDINGS: ClassVar[list[BindingType]] = [
        # Not k: that is the row above in every other place.
        Binding(
            "K,ctrl+k", "cancel", "cancel", key_display="K", tooltip="stop this job at its next checkpoint"
        ),
        Binding("r", "resume", "resume", tooltip="let a stopped job go on from its checkpoint"),
    ]

    def __init__(self, catalog: Catalog, id: str) -> None:
        super().__init__(catalog, id)
        self._found: dict[str, JobRow | Hurt] = {}
        self._shown: JobDetail | Hurt | None = None
        self._log: tuple[int, float] | None = None

    def read_rows(self) -> list[Row]:
        self._found = {str(row.id): row for row in list_jobs(self.catalog)}
        return [_row(row) for row in self._found.values()]

    def show_detail(self, key: str | None, *, fresh: bool) -> None:
        self._shown = job_detail(self.catalog, int(key)) if key is not None else None
        self._log = self._log_state()
        self._show(fresh=fresh)

    def tick(self) -> None:
        """The log is a file: its process writes it without touching the catalog."""
        state = self._log_state()
        if state != self._log:
            self._log = state
            self._show(fresh=False)

    def _show(self, *, fresh: bool) -> None:
        path = jobs.log_path(self.catalog.home, int(self.rows.key or 0))
        lines = tail(path)
        self.show_text(self._shown, lambda found: job_parts(found, path, lines), fresh=fresh)

    def _log_state(self) -> tuple[int, float] | None:
        try:
            found = jobs.log_path(self.catalog.home, int(self.rows.key or 0)).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime

    def twin(self, key: str) -> str:
        return command("job", "show", key)

    def action_cancel(self) -> None:
        row = self._found.get(self.rows.key or "")
        if not isinstance(row, JobRow) or not row.alive:
            self.post_message(Refused("only a queued, waiting or running job can be cancelled"))
            return
        catalog, id = self.catalog, row.id

        def cancel() -> str:
            job = jobs.ask_to_stop(catalog, id)
            return (
                f"job {id} {'is cancelled' if job.state in ENDED_STATES else 'stops at its next checkpoint'}"
            )

        question = (
            f"Cancel job {id} ({row.kind}: {row.about})?\nWhat it has saved stays: r resumes it from there."
        )
        self.confirm(question, "Cancel the job", command("job", "cancel", id), cancel)

    def action_resume(self) -> None:
        row = self._found.get(self.rows.key or "")
        if not isinstance(row, JobRow) or row.state not in ("interrupted", "paused", "failed", "cancelled"):
            self.post_message(Refused("only an interrupted, paused, failed or cancelled job can be resumed"))
            return
        catalog, id = self.catalog, row.id

        def resume() -> str:
            jobs.resume(catalog, id)
            return f"job {id} goes on from its checkpoint"

        self.post_message(Run(command("job", "resume", id), resume))


def _row(row: JobRow | Hurt) -> Row:
    if isinstance(row, Hurt):
        return Row(str(row.id), (Text("! damaged", style="red"), str(row.id), "", row.reason), hurt=True)
    symbol, style = STATES[row.state]
    word = "stopping" if row.alive and row.stop_asked else row.state
    cells: tuple[str | Text, ...] = (
        Text(f"{symbol} {word}", style=style),
        str(row.id),
        row.kind,
        row.about,
        _progress(row),
        rate(row.rate, row.unit) if row.alive and row.rate else "",
        duration(row.seconds_left) if row.alive and row.seconds_left is not None else "",
        row.activity if row.alive else row.error or "",
    )
    return Row(str(row.id), cells)


def _progress(row: JobRow) -> str | Text:
    """A bar where a total is known; else what it is doing, or how long it took."""
    if row.alive:
        if row.total:
            part = row.done / row.total
            return f"{bar(part, _BAR)} {part:4.0%}"
        return row.activity or (f"{count(row.done)} {row.unit}" if row.done else "")
    if row.started is not None and row.ended is not None:
        return f"took {duration((row.ended - row.started).total_seconds())}"
    return ""
