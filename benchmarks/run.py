"""Run the benchmarks and print their figures: `make bench`, or one of them: `make bench BENCH=trace`.

Speeds are ratios to the plain version, which runs on the same machine. Writes benchmarks/results.json; RESULTS names
another file.
"""

import importlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .machine import describe_machine

BENCHMARKS = (
    "trace",
    "facts",
    "edit",
    "covariance",
    "cluster",
    "app",
    "publish",
    "passage",
    "world",
    "faults",
    "importers",
    "gpu",
)
RESULTS = Path(os.environ.get("RESULTS") or Path(__file__).with_name("results.json"))


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all of them. Returns the exit code. Figures of other benchmarks do not change."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = describe_machine() | {"measured": datetime.now(UTC).isoformat(timespec="seconds")}
    for name in names or BENCHMARKS:
        figures = importlib.import_module(f".{name}", __package__).run()
        _print_figures(figures)
        # A run of some parts keeps the figures of the other parts.
        results |= {key: results.get(key, {}) | value for key, value in figures.items()}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print("machine:", ", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    return 0


def _print_figures(figures: dict[str, Any], path: str = "") -> None:
    for key, value in figures.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            _print_figures(value, name)
        else:
            print(f"{name:<32} {value:.6g}" if isinstance(value, float) else f"{name:<32} {value}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
