"""Read a data set of the Hub, or a folder laid out like one, as records.

In a process of its own, `python -m retcon.store.facts.hub SOURCE`: `datasets` imports torch as soon as a row is read.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import Record

PREFIX = "hub:"
_REFUSED = 2


def read_hub(source: str) -> list[Record]:
    """The records of `hub:NAME[:CONFIG][@SPLIT]`; by default of its only split, or of `train`.

    Raises InputError if the hub was not reached or has no such data set, configuration or split.
    """
    command = [sys.executable, "-m", __name__, source]
    environment = os.environ | {"USE_TORCH": "0", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["its process died"])[-1]
        raise InputError(said if done.returncode == _REFUSED else f"{source!r} could not be read: {said}")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if not rows:
        raise InputError(f"{source!r} holds no record: it must hold at least one fact.")
    return [Record(f"{source}, record {number}", row) for number, row in enumerate(rows, start=1)]


def rows_of(source: str) -> Iterator[dict[str, Any]]:
    """The rows, streamed, without what is null: a table has every column in every row. Raises InputError."""
    name, _, split = source.removeprefix(PREFIX).partition("@")
    name, _, config = name.partition(":")
    if not name:
        raise InputError(
            f"{source!r} names no data set: write {PREFIX}NAME, {PREFIX}NAME:CONFIG or with @SPLIT."
        )
    import datasets
    from huggingface_hub import HfApi

    try:
        commit = None if Path(name).is_dir() else HfApi().dataset_info(name).sha
        splits = datasets.load_dataset(name, config or None, streaming=True, revision=commit)
    except Exception as error:  # http, repository, builder errors: each about the source that was named
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the data set {source!r} could not be opened: {text}; see its name and the network"
        ) from error
    chosen = split or (next(iter(splits)) if len(splits) == 1 else "train")
    if chosen not in splits:
        raise InputError(f"{source!r} has no split {chosen!r}: give one of {', '.join(splits)} after an @.")
    for row in splits[chosen]:
        yield {name: value for name, value in row.items() if value is not None}


def _main(source: str) -> int:
    try:
        for row in rows_of(source):
            print(json.dumps(row))
    except InputError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
