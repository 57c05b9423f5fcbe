"""Read a data set of the Hub, or a folder with the same layout, as records.

A separate process, `python -m retcon.store.facts.hub SOURCE`, reads it: `datasets` imports torch.
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
_INPUT_ERROR = 2


def read_hub(source: str) -> list[Record]:
    """The records of `hub:NAME[:CONFIG][@SPLIT]`. Without @SPLIT: the only split, or `train`.

    Raises InputError if the Hub cannot be reached or has no such data set, configuration or split.
    """
    command = [sys.executable, "-m", __name__, source]
    environment = os.environ | {"USE_TORCH": "0", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        message = (done.stderr.strip().splitlines() or ["its process ended without a message"])[-1]
        raise InputError(
            message if done.returncode == _INPUT_ERROR else f"{source!r} cannot be read: {message}"
        )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    if not rows:
        raise InputError(f"{source!r} has no records: it must contain at least one fact.")
    return [Record(f"{source}, record {number}", row) for number, row in enumerate(rows, start=1)]


def rows_of(source: str) -> Iterator[dict[str, Any]]:
    """The rows, streamed, without null columns. Raises InputError."""
    name, _, split = source.removeprefix(PREFIX).partition("@")
    name, _, config = name.partition(":")
    if not name:
        raise InputError(
            f"{source!r} does not name a data set: write {PREFIX}NAME, {PREFIX}NAME:CONFIG or with @SPLIT."
        )
    import datasets
    from huggingface_hub import HfApi

    try:
        commit = None if Path(name).is_dir() else HfApi().dataset_info(name).sha
        splits = datasets.load_dataset(name, config or None, streaming=True, revision=commit)
    except Exception as error:  # http, repository and builder errors: each concerns the named source
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the data set {source!r} cannot be opened: {text}; check its name and the network"
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
        return _INPUT_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
