"""What the last sweep of a model tells of a passage that is to be written into it."""

from sqlmodel import Session, col, select

from ....store.catalog.tables import Sweep, SweepTrial
from ...passages.checks import Problem

# Of fewer facts than this share a person would want to know before ten minutes of writing.
_MOST = 0.9


def check_by_sweep(session: Session, model_id: int, method: str, facts: int) -> list[Problem]:
    """A warning, at the first fact, where the last sweep of this method says that not all will hold, or tried fewer."""
    newest = (
        select(Sweep).where(Sweep.model_id == model_id, Sweep.method == method).order_by(col(Sweep.id).desc())
    )
    for sweep in session.exec(newest):
        trials = session.exec(select(SweepTrial).where(SweepTrial.sweep_id == sweep.id)).all()
        wrote = [trial for trial in trials if trial.refused is None]
        if not wrote:
            continue
        best = max(wrote, key=lambda trial: float(trial.score["value"]))
        value, count = float(best.score["value"]), int(best.score["count"])
        if value >= _MOST and facts <= count:
            return []
        layers = ", ".join(map(str, best.layers))
        message = (
            f"{facts} facts are to be written; in the last sweep of {method} (sweep {sweep.id}) the best settings, "
            f"layer {layers}, came to {value:.2f} ({float(best.score['low']):.2f} to {float(best.score['high']):.2f}) "
            f"by {', '.join(best.score['of'])} on {count}: write fewer at once, or sweep with as many"
        )
        return [Problem(0, "warning", "sweep", message)]
    return []
