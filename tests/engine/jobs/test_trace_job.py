"""A trace job in this process: its progress, its memory budget, and the corruption of an extended trace."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retcon.engine.jobs.specs import TraceSpec
from retcon.engine.jobs.worker import __main__ as worker
from retcon.engine.jobs.worker.running import RunningJob
from retcon.engine.model.decoder import Resumption
from retcon.engine.progress import Progress
from retcon.store import jobs as rows
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Job
from retcon.store.home import Home
from retcon.tests.helpers.command_line import Retcon, write_facts

pytestmark = pytest.mark.slow

Work = Callable[..., Job]


@pytest.fixture
def work(retcon: Retcon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    """Run a trace job, from a checkpoint if there is one. Returns its final row."""
    monkeypatch.setenv("RETCON_HOME", str(retcon.home))
    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)

    def run(checkpoint: dict[str, Any] | None = None, **settings: Any) -> Job:
        catalog = Catalog.open(Home(retcon.home))
        spec = TraceSpec("tiny", **settings)
        with catalog.write() as session:
            job = rows.create(session, spec.kind, spec.as_dict(), "cpu")
            job.checkpoint = checkpoint or {}
        assert job.id is not None
        catalog.home.job_log(job.id).touch()
        assert worker.main(job.id) == 0
        with catalog.read() as session:
            ended = rows.get(session, job.id)
        catalog.close()
        return ended

    yield run
    signal.signal(signal.SIGTERM, handler)
    os.umask(mask)


def test_progress_counts_only_facts_that_are_traced(
    retcon: Retcon,
    work: Work,
    known_facts: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two of three answers are wrong. From the first report on, only the others count, weighted by cost."""
    facts = [
        fact if wrong is None else fact | {"target_true": wrong}
        for fact in known_facts[:8]
        for wrong in (None, "is", "in")
    ]
    right = sum(fact in known_facts for fact in facts)
    retcon("facts", "import", write_facts(tmp_path / "facts.json", facts), "--name", "half")
    reports: list[Progress] = []
    report = RunningJob.report

    def record_report(self: RunningJob, progress: Progress) -> None:
        reports.append(progress)
        report(self, progress)

    monkeypatch.setattr(RunningJob, "report", record_report)
    ended = work(facts="half", samples=2)
    tracing = [progress for progress in reports if progress.unit == "facts"]
    assert {progress.total for progress in tracing} == {right}
    assert [progress.done for progress in tracing] == sorted(progress.done for progress in tracing)
    shares = [progress.share or 0.0 for progress in tracing]
    assert shares[0] == 0.0 and shares == sorted(shares) and 0.8 < shares[-1] <= 1.0
    asked = [progress for progress in reports if progress.unit == "answers"]
    assert asked[-1].done == asked[-1].total == len(facts)
    results = retcon.json("trace", "show", ended.result["trace"])["results"]
    assert sum(result["skip_reason"] is None for result in results) == right


def test_a_resumed_job_keeps_the_memory_budget(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory halves the batch. A resumed job starts with that budget."""
    refused: list[int] = []
    call = Resumption.step

    def small_device(self: Resumption, layer: int, hidden: Tensor, *rest: Any, **named: Any) -> Tensor:
        size = hidden.shape[0] * hidden.shape[1]
        if size > 600:
            refused.append(size)
            raise torch.OutOfMemoryError("simulated")
        return call(self, layer, hidden, *rest, **named)

    monkeypatch.setattr(Resumption, "step", small_device)
    first = work(facts="known", samples=10)
    first_refused, budget = list(refused), first.checkpoint["budget"]
    assert first_refused and isinstance(budget, int) and budget < max(first_refused)
    refused.clear()
    again = work({"budget": budget}, facts="known", samples=10)
    assert len(refused) < len(first_refused) and max(refused, default=0) < max(first_refused)
    assert again.checkpoint["budget"] <= budget


def test_extend_reads_the_corruption_from_the_row(
    retcon: Retcon, known_facts: list[dict[str, Any]], tmp_path: Path
) -> None:
    """`trace extend` corrupts new facts as the trace did: noise that replaces, or another subject."""
    retcon("facts", "import", write_facts(tmp_path / "few.json", known_facts[:2]), "--name", "few")
    trace = retcon.json("trace", "run", "tiny", "--facts", "few", "--replace", "--samples", 2)
    assert trace["replace"] and trace["swap"] is None
    swapped = retcon.json("trace", "run", "tiny", "--facts", "few", "--swap-subject", "auto")
    assert not swapped["replace"] and swapped["swap"] == "auto"
    for before in (trace, swapped):
        extended = retcon.json("trace", "extend", before["trace"])
        assert [extended[name] for name in ("replace", "swap", "results")] == [
            before[name] for name in ("replace", "swap", "results")
        ]
        job = retcon.json("job", "list")["jobs"][0]
        spec = retcon.json("job", "show", job["id"])["spec"]
        assert (spec["replace"], spec["swap"]) == (before["replace"], before["swap"])
