"""Two evaluations side by side, or why not."""

from typing import TYPE_CHECKING

from ...store.catalog.tables import Evaluation
from ...store.errors import InputError
from ..evaluation.metrics import METRICS, compare_protocols

if TYPE_CHECKING:
    from ..evaluation.intervals import MetricChange


def compare(a: Evaluation, b: Evaluation) -> "dict[str, MetricChange]":
    """What changed from `a` to `b`, by metric, over the cases where both have it.

    What earlier edits kept is left out: the two revisions may have other ones.

    Raises:
        store.errors.InputError: their protocols differ; the message names the fields.
    """
    found = compare_protocols(a.protocol, b.protocol)
    if found:
        raise InputError(
            f"evaluations {a.id} and {b.id} cannot be compared, their protocols differ in "
            f"{'; '.join(map(str, found))}: run one again with the other's settings"
        )
    # NumPy is not worth its import where nothing is compared.
    from ..evaluation.intervals import MetricChange, compare_rows

    rows_a, rows_b = ([case["metrics"] for case in one.cases] for one in (a, b))
    changes = compare_rows(rows_a, rows_b, a.protocol["seed"])
    for name, meaning in METRICS.items():
        if meaning.over == "texts" and name in a.metrics and name in b.metrics:
            one, other = a.metrics[name], b.metrics[name]
            changes[name] = MetricChange(one["value"], other["value"], None, None, one["count"])
    return changes
