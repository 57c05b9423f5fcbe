"""Texts for the second moment: the shipped texts, a local file, or a data set of the Hub."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line

SHIPPED = "shipped"
WIKIPEDIA = "wikipedia"
# The data set that `wikipedia` means.
DEFAULT_HUB = "wikimedia/wikipedia:20231101.en"
_LOADERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_SHUFFLE_BUFFER = 10_000


@dataclass(frozen=True)
class Corpus:
    """A source of documents. `revision` identifies its content: the sha256 of a file, or the commit of a hub data
    set."""

    source: str
    revision: str
    _rows: Any

    @property
    def size(self) -> int | None:
        """Number of documents; None for a streamed data set."""
        return len(self._rows) if isinstance(self._rows, list) else None

    def documents(self, seed: int) -> Iterator[str]:
        """The documents, shuffled by `seed`; each call gives the same order.

        Raises:
            InputError: a streamed data set has no column `text`.
        """
        if isinstance(self._rows, list):
            order = list(range(len(self._rows)))
            random.Random(seed).shuffle(order)
            yield from (self._rows[i] for i in order)
        else:
            for row in self._rows.shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER):
                if "text" not in row:
                    raise InputError(f"{self.source} has no column 'text'; its columns are {', '.join(row)}")
                if isinstance(row["text"], str) and row["text"].strip():
                    yield row["text"]


def open_corpus(source: str) -> Corpus:
    """Open a source: `shipped`, `wikipedia` (streamed from the hub), a text file, or a hub data set `NAME[:CONFIG]`.

    A file is .txt with one document per line, or .jsonl, .json, .csv or .parquet with a column `text`.

    Raises:
        InputError: the file does not exist, has no column `text` or no text, or the hub was not reached.
    """
    if source == SHIPPED:
        folder = resources.files("retcon.engine.covariance.texts")
        texts, digest = [], hashlib.sha256()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".jsonl"):
                data = entry.read_bytes()
                digest.update(data)
                texts += [json.loads(line)["text"] for line in data.decode().splitlines()]
        return Corpus(SHIPPED, digest.hexdigest(), texts)
    if source == WIKIPEDIA:
        return _from_hub(DEFAULT_HUB)
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path)
    if path.suffix in _LOADERS or source.startswith((".", "/", "~")):
        raise InputError(f"the text file {source} does not exist")
    return _from_hub(source)


def _from_file(path: Path) -> Corpus:
    import datasets

    loader = _LOADERS.get(path.suffix)
    if loader is None:
        raise InputError(f"{path} is not a supported text file; use {', '.join(_LOADERS)}")
    try:
        rows = datasets.load_dataset(loader, data_files=str(path), split="train")
    except Exception as error:  # the readers of datasets raise many types of error
        raise InputError(f"cannot read {path} as {loader}: {error.__cause__ or error}") from error
    if "text" not in rows.column_names:
        raise InputError(f"{path} has no column 'text'; its columns are {', '.join(rows.column_names)}")
    texts = [text for text in rows["text"] if isinstance(text, str) and text.strip()]
    if not texts:
        raise InputError(f"{path} has no text")
    with path.open("rb") as file:
        return Corpus(str(path.absolute()), hashlib.file_digest(file, "sha256").hexdigest(), texts)


def _from_hub(source: str) -> Corpus:
    import datasets
    from huggingface_hub import HfApi

    name, _, config = source.partition(":")
    try:
        commit = HfApi().dataset_info(name).sha or ""
        rows = datasets.load_dataset(name, config or None, split="train", streaming=True, revision=commit)
    except Exception as error:  # http, repository and builder errors
        raise InputError(f"cannot open the data set {source!r}: {first_line(error)}") from error
    return Corpus(source, commit, rows)
