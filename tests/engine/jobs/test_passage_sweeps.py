"""The check of a passage against the newest sweep of its method."""

from pathlib import Path

from sqlmodel import Session, select

from retcon.engine.jobs.runs.passage_methods import check_by_sweep
from retcon.store.catalog.tables import Revision, Sweep, SweepTrial
from retcon.tests.helpers.bundle_catalog import with_model


def add_sweep(
    session: Session, model: int, *values: float, count: int = 20, refused: str | None = None
) -> None:
    base = session.exec(select(Revision.id)).one()
    sweep = Sweep(model_id=model, revision=base, method="joint", seed=1, trial_count=len(values))
    session.add(sweep)
    session.flush()
    assert sweep.id is not None
    for at, value in enumerate(values):
        score = {"of": ["EA", "PA"], "value": value, "low": value - 0.1, "high": value + 0.1, "count": count}
        session.add(
            SweepTrial(
                sweep_id=sweep.id, position=at, layers=[at, 9], score=score, seconds=1.0, error=refused
            )
        )
    session.flush()


def test_the_newest_successful_sweep_is_used(tmp_path: Path) -> None:
    catalog = with_model(tmp_path / "home")
    with catalog.read() as session:
        assert check_by_sweep(session, 1, "joint", 5) == []
    with catalog.write() as session:
        add_sweep(session, 1, 0.95, 0.5)
    with catalog.read() as session:
        # No warning for as many facts as the sweep wrote; a warning for more.
        assert check_by_sweep(session, 1, "joint", 20) == []
        (more,) = check_by_sweep(session, 1, "joint", 21)
        assert check_by_sweep(session, 1, "memit", 21) == []
    assert (
        more.severity == "warning"
        and "layer 0, 9, scored 0.95 (0.85 to 1.05) by EA, PA on 20 facts" in more.message
    )
    with catalog.write() as session:
        add_sweep(session, 1, 0.2, 0.4)
        add_sweep(session, 1, 0.0, refused="no covariance")
    with catalog.read() as session:
        (poor,) = check_by_sweep(session, 1, "joint", 5)
    assert "sweep 2" in poor.message and "layer 1, 9, scored 0.40" in poor.message
    catalog.close()
