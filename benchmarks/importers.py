"""Give damaged files to all importers and count tracebacks and partial imports. Both counts must be zero.

INPUTS=10000 make bench BENCH=importers
"""

import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retcon.tests.helpers.all_importers import importers
from retcon.tests.helpers.import_bench import Bench, Importer, Tally

_INPUTS = int(os.environ.get("INPUTS", "10000"))
_MAX_PRINTED = 20


def run() -> dict[str, Any]:
    """Counts per importer. The first faults of each are printed to stderr."""
    figures: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, importer in enumerate(importers(Path(folder))):
            print(importer.name, file=sys.stderr, flush=True)
            tally = _try_importer(importer, Path(folder) / str(number))
            for complaint in list(dict.fromkeys(tally.complaints))[:_MAX_PRINTED]:
                print(complaint, file=sys.stderr)
            counts = asdict(tally)
            del counts["complaints"]
            figures[importer.name] = counts
    names = next(iter(figures.values()))
    total = {name: sum(counts[name] for counts in figures.values()) for name in names}
    return {"importers": {"inputs_each": _INPUTS, "total": total} | figures}


def _try_importer(importer: Importer, folder: Path) -> Tally:
    tally, bench = Tally(), Bench(folder)

    # Faults are counted and not raised, so Hypothesis has no example to shrink.
    @settings(
        max_examples=_INPUTS,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def try_files(data: st.DataObject) -> None:
        bench.try_import(importer, data.draw(importer.files), tally)

    try:
        try_files()
    finally:
        bench.close()
    return tally
