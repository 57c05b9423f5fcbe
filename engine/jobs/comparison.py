"""Compare two evaluations."""

from typing import TYPE_CHECKING

from ...store.catalog.tables import Evaluation
from ...store.errors import InputError
from ..evaluation.metrics import METRICS, compare_protocols

if TYPE_CHECKING:
    from ..evaluation.intervals import MetricChange


def compare_evaluations(a: Evaluation, b: Evaluation) -> "dict[str, MetricChange]":
    """The change from `a` to `b` per metric, over the cases that both have.

    Retention of earlier edits is left out, because the two revisions may have different earlier edits.

    Raises:
        store.errors.InputError: the protocols differ; the message names the fields.
    """
    differing = compare_protocols(a.protocol, b.protocol)
    if differing:
        raise InputError(
            f"evaluations {a.id} and {b.id} cannot be compared, because their protocols differ in "
            f"{'; '.join(map(str, differing))}: run one again with the other's settings"
        )
    # NumPy is imported only for a comparison that takes place.
    from ..evaluation.intervals import MetricChange, compare_rows

    rows_a, rows_b = ([case["metrics"] for case in one.cases] for one in (a, b))
    changes = compare_rows(rows_a, rows_b, a.protocol["seed"])
    for name, meaning in METRICS.items():
        if meaning.over == "texts" and name in a.metrics and name in b.metrics:
            one, other = a.metrics[name], b.metrics[name]
            changes[name] = MetricChange(one["value"], other["value"], None, None, one["count"])
    return changes
