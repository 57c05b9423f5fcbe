"""Broken files for everything that reads a stranger's file: how many end in a traceback, or half written. None may.

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


def run() -> dict[str, Any]:
    """Counts of all importers; the first faults of each go to stderr."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, importer in enumerate(importers(Path(folder))):
            print(importer.name, file=sys.stderr, flush=True)
            tally = _offered(importer, Path(folder) / str(number))
            for fault in list(dict.fromkeys(tally.complaints))[:20]:
                print(fault, file=sys.stderr)
            figures[importer.name] = {
                name: count for name, count in asdict(tally).items() if name != "complaints"
            }
    total = {name: sum(one[name] for one in figures.values()) for name in next(iter(figures.values()))}
    return {"importers": {"inputs_each": _INPUTS, "total": total} | figures}


def _offered(importer: Importer, folder: Path) -> Tally:
    tally, bench = Tally(), Bench(folder)

    # Faults are counted, not raised: there is nothing to make smaller.
    @settings(
        max_examples=_INPUTS,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def offer(data: st.DataObject) -> None:
        bench.try_import(importer, data.draw(importer.files), tally)

    try:
        offer()
    finally:
        bench.close()
    return tally
