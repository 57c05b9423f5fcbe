"""The number of running and queued jobs at the top of the screen, and the jobs that ended since the last read."""

from rich.text import Text
from textual.widgets import Static

from .....store.catalog.catalog import Catalog
from ....presentation.format import plural
from ...data.jobs import ActiveJobs, JobRow, load_active_jobs, load_ended_jobs, load_interrupted_jobs

# Number of jobs that a question names.
_MAX_NAMED = 3


class JobStatus(Static):
    """One line of text about the active jobs."""

    def __init__(self, catalog: Catalog, id: str) -> None:
        super().__init__(id=id)
        self._catalog = catalog
        self._active: ActiveJobs | None = None
        self._text = ""

    @property
    def has_active(self) -> bool:
        """Whether a job had not ended at the last read."""
        return self._active is not None and bool(self._active.jobs)

    def read(self) -> list[JobRow]:
        """Read the catalog and show the counts; returns the jobs that ended since the last read."""
        old, new = self._active, load_active_jobs(self._catalog)
        self._active = new
        running, queued = new.count("running"), new.count("queued", "waiting")
        parts = [f"▶ {running} running" if running else "", f"… {queued} queued" if queued else ""]
        text = " · ".join(part for part in parts if part) or "no jobs running"
        if new.interrupted:
            text += f" · ! {new.interrupted} interrupted: R resumes"
        # The same text again would lay out the whole screen at every step of every job.
        if text != self._text:
            self._text = text
            self.update(Text(text + " ", style="bold" if new.jobs or new.interrupted else "dim"))
        # Read job rows only if an active job has disappeared or new ones exist.
        if old is None or (old.newest == new.newest and not {*old.jobs} - {*new.jobs}):
            return []
        ended = load_ended_jobs(self._catalog, [id for id, _ in old.jobs], old.newest)
        return [job for job in ended if isinstance(job, JobRow)]


def resume_question(catalog: Catalog) -> str | None:
    """The question before all interrupted jobs resume; None if there are none."""
    count = load_active_jobs(catalog).interrupted
    if not count:
        return None
    jobs = load_interrupted_jobs(catalog, _MAX_NAMED)
    names = "\n".join(f"job {job.id}: {job.kind} {job.about}" for job in jobs)
    more = f"\n.. and {count - _MAX_NAMED} more" if count > _MAX_NAMED else ""
    return f"Resume {plural(count, 'interrupted job')} from the last checkpoint?\n{names}{more}"
