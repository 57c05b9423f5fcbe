"""Import and export traces in the published format: one .npz per fact and kind, as experiments/causal_trace.py of rome.

`knowledge_ID.npz` (hidden), `knowledge_ID_mlp.npz`, `knowledge_ID_attn.npz`, each with scores `[T, L]`, high_score,
low_score, input_ids, input_tokens, subject_range, answer, window, kind and correct_prediction. Read without pickle.
"""

import lzma
import operator
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..catalog.catalog import Catalog
from ..catalog.tables import AverageEffect, Trace, TraceResult
from ..effects import average_effects
from ..errors import InputError
from ..history import history

# Errors of zipfile and NumPy for broken or forged files.
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, SyntaxError, ValueError,
           TypeError, EOFError, KeyError, RuntimeError, OverflowError, MemoryError, OSError)  # fmt: skip
_NAME = re.compile(r"knowledge_(\d+)(?:_(mlp|attn))?\.npz")
_SUFFIX = {"hidden": "", "mlp": "_mlp", "attn": "_attn"}


def write_npz(folder: Path, results: Sequence[TraceResult], names: Sequence[int]) -> int:
    """Write the results to a new or empty folder. Returns the number of files.

    `names` are the known ids in the file names. The format has no severed kinds; they are skipped.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for result, name in zip(results, names, strict=True):
        for kind, suffix in _SUFFIX.items():
            if result.skip_reason is not None:
                arrays = {"correct_prediction": np.array(False)}
            elif kind in result.scores:
                arrays = _arrays(result, kind)
            else:
                continue
            with (folder / f"knowledge_{name}{suffix}.npz").open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            count += 1
    return count


def _arrays(result: TraceResult, kind: str) -> dict[str, np.ndarray]:
    table = result.scores[kind]
    return {
        "scores": np.array(table["scores"], dtype=np.float32),  # None (not traced) becomes NaN
        "low_score": np.array(result.low),
        "high_score": np.array(result.high),
        "input_ids": np.array(result.token_ids),
        "input_tokens": np.array(result.tokens),
        "subject_range": np.array([result.subject_begin, result.subject_end]),
        "answer": np.array(result.answer),
        "window": np.array(table["window"] if kind != "hidden" else 10),
        "correct_prediction": np.array(True),
        "kind": np.array("" if kind == "hidden" else kind),
    }


def import_trace(catalog: Catalog, folder: Path, model: str) -> tuple[Trace, list[TraceResult]]:
    """Import a folder of such files as a trace of a model's base; the saved rows.

    Raises InputError as `read_npz` does; then nothing is stored.
    """
    with catalog.read() as session:
        found = history.find_model(session, model)
    results = read_npz(folder, found.anatomy["layers"])
    kinds = [kind for kind in _SUFFIX if any(kind in result.scores for result in results)]
    tables = [result.scores[kind] for result in results for kind in ("mlp", "attn") if kind in result.scores]
    effects = average_effects([result for result in results if result.skip_reason is None])
    with catalog.write() as session:
        trace = Trace(
            model_id=found.id or 0,
            revision=history.find_revision(session, found, "base").id,
            kinds=kinds,
            noise="imported",
            samples=10,
            window=tables[0]["window"] if tables else 10,
            seed=1,
            protocol={"imported": str(folder)},
        )
        session.add(trace)
        session.flush()
        assert trace.id is not None
        for result in results:
            result.trace_id = trace.id
        session.add_all(results)
        session.add_all(AverageEffect(trace_id=trace.id, **asdict(effect)) for effect in effects)
    return trace, results


def read_npz(folder: Path, layers: int) -> list[TraceResult]:
    """The results of a folder of such files, unsaved, in the order of their ids.

    Raises InputError for a folder without them, a damaged file, one that needs pickle, or one of another model (a
    number of layers other than `layers`).
    """
    found: dict[int, TraceResult] = {}
    files = sorted(folder.glob("knowledge_*.npz")) if folder.is_dir() else []
    for path in files:
        if match := _NAME.fullmatch(path.name):
            number, kind = int(match[1]), match[2] or "hidden"
            blank = TraceResult(trace_id=0, position=number, prompt=f"knowledge {number}", subject="")
            _add_kind(found.setdefault(number, blank), kind, read_npz_arrays(path), path, layers)
    if not found:
        raise InputError(
            f"{folder} contains no traces: expected files named knowledge_ID.npz, knowledge_ID_mlp.npz, ..."
        )
    results = [found[number] for number in sorted(found)]
    for position, result in enumerate(results):
        result.position = position
    return results


def _add_kind(result: TraceResult, kind: str, data: dict[str, Any], path: Path, layers: int) -> None:
    try:
        if not bool(data.get("correct_prediction", True)):
            result.skip_reason = "the model's first choice was another answer (according to the file)"
            return
        if np.iscomplexobj(data["scores"]):
            raise ValueError("its scores are complex numbers")
        # Values beyond float32 become infinite; they are rejected below.
        with np.errstate(over="ignore"):
            scores = np.asarray(data["scores"], dtype=np.float32)
        begin, end = map(operator.index, data["subject_range"].tolist())
        tokens = [str(token) for token in data["input_tokens"].tolist()]
        high, low, answer = float(data["high_score"]), float(data["low_score"]), str(data["answer"])
        window = int(data["window"]) if kind != "hidden" else 1
        ids = [int(token) for token in data["input_ids"].tolist()] if "input_ids" in data else []
        fits = scores.shape == (len(tokens), layers) and 0 <= begin < end <= len(tokens)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is not a valid trace ({error}).") from error
    if not fits:
        raise InputError(
            f"{path} has scores of shape {scores.shape} for {len(tokens)} tokens and a subject at {begin}-{end}; "
            f"this model has {layers} layers."
        )
    missing = np.isnan(scores)
    has_gaps = (missing.any(1) != missing.all(1)).any()
    if not np.isfinite([high, low]).all() or np.isinf(scores).any() or has_gaps:
        raise InputError(
            f"{path} contains invalid probabilities: each token must have all of its scores, or none."
        )
    result.tokens, result.token_ids, result.answer = tokens, ids, answer
    result.subject_begin, result.subject_end, result.high, result.low = begin, end, high, low
    result.prompt, result.subject = "".join(tokens).strip(), "".join(tokens[begin:end]).strip()
    table = [[None if np.isnan(cell) else float(cell) for cell in row] for row in scores]
    result.scores = result.scores | {kind: {"window": window, "scores": table}}


def read_npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, read without pickle. Raises InputError for an invalid file or member."""
    try:
        with np.load(path, allow_pickle=False) as data:
            found = {name: data[name] for name in data.files}
    except _BROKEN as error:
        raise InputError(f"{path} cannot be read as .npz without pickle ({error}).") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{path} cannot be read as .npz: its member {name!r} is not an array.")
    return found
