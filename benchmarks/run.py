"""Run the benchmarks and print a table: `make bench`, or one of them: `make bench BENCH=trace`.

Every speed is a ratio against the plain version in the same run. Writes benchmarks/results.json.
"""

import importlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .machine import description

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
RESULTS = Path(__file__).with_name("results.json")


def main(names: list[str]) -> int:
    """Run the named benchmarks (all without a name); other figures in the results file stay."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = description() | {"measured": datetime.now(UTC).isoformat(timespec="seconds")}
    for name in names or BENCHMARKS:
        figures = importlib.import_module(f".{name}", __package__).run()
        _print(figures)
        # What a run of some parts did not measure stays.
        results |= {key: results.get(key, {}) | value for key, value in figures.items()}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print("machine:", ", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    return 0


def _print(figures: dict[str, Any], path: str = "") -> None:
    for key, value in figures.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            _print(value, name)
        else:
            print(f"{name:<32} {value:.6g}" if isinstance(value, float) else f"{name:<32} {value}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
