"""All importers of files from outside, each with a strategy for broken files.

The property tests try some files, `benchmarks/importers.py` thousands.
"""

import csv
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save

from retcon.engine.edits.hparams import files as hparams
from retcon.engine.model.loading import check_folder
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Artifact
from retcon.store.config import read_config
from retcon.store.exchange import bundle as bundles
from retcon.store.exchange import covariance as covariance_files
from retcon.store.exchange import manifest as manifests
from retcon.store.exchange import trace as trace_files
from retcon.store.facts import sets as facts
from retcon.store.facts.references import add_references
from retcon.store.history import history
from retcon.tests.helpers.broken_files import (
    arrays,
    changed,
    damaged,
    json_files,
    npz_files,
    safetensors_files,
    texts,
)
from retcon.tests.helpers.bundle_catalog import BASE, MATRIX, REQUEST, WIDTH, fill, with_model
from retcon.tests.helpers.import_bench import Files, Importer
from retcon.tests.helpers.records import COUNTERFACT, KNOWN, PLAIN, ZSRE


def _one(name: str, data: st.SearchStrategy[bytes]) -> st.SearchStrategy[Files]:
    return data.map(lambda one: {name: one})


def _facts(name: str) -> Callable[[Catalog, Path], object]:
    def import_facts(catalog: Catalog, folder: Path) -> object:
        with catalog.write() as session:
            format, records = facts.read_fact_file(folder / name)
            return facts.save_facts(session, records, "set", name, format)

    return import_facts


_FULL = PLAIN | {
    "paraphrases": ["Where is the {}?"],
    "neighbors": [{"prompt": "The Louvre is in", "true": "Paris"}, "Notre-Dame is in"],
    "portability": [{"prompt": "The country of the tower is", "answers": ["France"]}],
    "negations": ["{} is not in"],
    "generation_prompts": ["About {}"],
    "references": [{"text": "Rome is old.", "name": "Rome"}],
}
_MQUAKE = {
    "requested_rewrite": [COUNTERFACT["requested_rewrite"]], "questions": ["What?"], "new_answer": "English",
    "new_answer_alias": ["E"],
}  # fmt: skip
_fact_files = st.one_of(*(json_files([one, one]) for one in (KNOWN, COUNTERFACT, ZSRE, _FULL, _MQUAKE)))


@st.composite
def _json_lines(draw: st.DrawFn) -> bytes:
    rows = draw(changed([KNOWN, KNOWN] if draw(st.booleans()) else [_FULL, _FULL]))
    return draw(damaged("\n".join(json.dumps(row) for row in rows).encode()))


@st.composite
def _csv(draw: st.DrawFn) -> bytes:
    table = io.StringIO()
    writer = csv.writer(table, delimiter=draw(st.sampled_from(",;\t")))
    head = ["subject", "prompt", "target_new", "target_true", "paraphrases"]
    rows = [head, ["Eiffel Tower", "{} is in", "Rome", "Paris", '["a {}", "b"]']]
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(rows))
        at = draw(st.integers(0, len(row) - 1)) if row else 0
        row[at : at + draw(st.integers(0, 2))] = draw(st.lists(texts, max_size=2))
    writer.writerows(rows)
    return draw(damaged(table.getvalue().encode("utf-8", "replace")))


_SNIPPETS = [
    {"relation_id": "P103", "target_id": "Q1860", "samples": [{"name": "Ann", "text": "Ann is English."}]}
]


def _references(catalog: Catalog, folder: Path) -> None:
    records = facts.read_fact_file(folder / "facts.json")[1]
    add_references(records, folder / "snippets.json")
    with catalog.write() as session:
        facts.save_facts(session, records, "set", "file", "CounterFact")


_SUMS = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 3.0]])
_FIELD_COVARIANCE = {
    "mom2.constructor": np.array("util.runningstats.SecondMoment()"), "mom2.count": np.array(10),
    "mom2.mom2": _SUMS.astype(np.float32), "sample_size": np.array(3),
}  # fmt: skip
_PROVENANCE = {
    "fingerprint": BASE, "tokenizer": "t", "layer": 1, "module": MATRIX, "width": WIDTH, "texts": "t",
    "texts_revision": "r", "seed": 1, "tokens": 10, "documents": 3, "max_length": 8, "dtype": "float32",
    "curve": [{"tokens": 5, "mean": 0.5, "largest": 1.0}], "origin": {}, "model": "tiny",
    "created": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


@st.composite
def _own_covariance(draw: st.DrawFn) -> bytes:
    """An exported covariance. Half of the files have the right digest: a forger can compute it too."""
    found = draw(arrays({"total": _SUMS}))
    total = found.get("total", _SUMS)
    digest = hashlib.sha256(np.ascontiguousarray(total).tobytes()).hexdigest()
    metadata = {
        "format": covariance_files.FORMAT,
        "sha256": digest,
        "made": json.dumps(draw(changed(_PROVENANCE))),
    }
    if total.dtype.str in {"<f8", "<f4"} and draw(st.booleans()):
        return draw(damaged(save({"total": np.ascontiguousarray(total)}, metadata)))
    return draw(safetensors_files({"total": _SUMS}, metadata))


def _covariance(name: str) -> Callable[[Catalog, Path], object]:
    return lambda catalog, folder: covariance_files.import_covariance(catalog, folder / name, "tiny", 1)


_TRACE = {
    "scores": np.array([[0.1, 0.2], [0.3, 0.4], [0.1, 0.5]], np.float32), "low_score": np.array(0.1),
    "high_score": np.array(0.9), "input_ids": np.array([4, 5, 6]), "input_tokens": np.array(["The", "Tower", "is"]),
    "subject_range": np.array([1, 2]), "answer": np.array("Paris"), "window": np.array(10),
    "correct_prediction": np.array(True), "kind": np.array("mlp"),
}  # fmt: skip
_traces = st.fixed_dictionaries(
    {"traces/knowledge_0_mlp.npz": npz_files(_TRACE)},
    optional={"traces/knowledge_0.npz": npz_files(_TRACE), "traces/knowledge_7_attn.npz": npz_files(_TRACE)},
)


def pack(members: Mapping[str, bytes], head: Mapping[str, Any], *, honest: bool) -> bytes:
    """A bundle of these members. If `honest`, its manifest has their true sizes and digests."""
    about = dict(head)
    if honest:
        about["members"] = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in members.items()
        }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in (dict(members) | {"manifest.json": json.dumps(about).encode()}).items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def sound_bundle(folder: Path) -> dict[str, bytes]:
    """The members of a valid bundle with rows of all tables."""
    catalog = with_model(folder / "source")
    fill(catalog)
    bundles.export_history(catalog, "tiny", folder / "bundle")
    catalog.close()
    with zipfile.ZipFile(folder / "bundle") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@st.composite
def _bundles(draw: st.DrawFn, sound: Mapping[str, bytes]) -> bytes:
    members = {name: data for name, data in sound.items() if name != "manifest.json"}
    head = draw(changed(json.loads(sound["manifest.json"]))) if draw(st.booleans()) else None
    target = draw(st.sampled_from(["rows", "rows", "rows", "artifact", "nothing"]))
    if target == "rows":
        members["rows.json"] = json.dumps(draw(changed(json.loads(members["rows.json"])))).encode()
    elif target == "artifact":
        name = draw(st.sampled_from(sorted(members)))
        data = draw(damaged(members.pop(name)))
        # Rename it in the rows too, so that the import reads its content.
        digest = hashlib.sha256(data).hexdigest()
        old = name.rpartition("/")[2]
        if "/" in name:
            members["rows.json"] = members["rows.json"].replace(old.encode(), digest.encode())
        members[f"artifacts/{digest}" if "/" in name else name] = data
    data = pack(
        members, head or json.loads(sound["manifest.json"]), honest=draw(st.sampled_from([True, True, False]))
    )
    return draw(damaged(data)) if draw(st.booleans()) else data


def _step(id: str, parent: str | None, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "id": id, "parent": parent, "kind": kind, "reverts": None, "method": None, "hparams": {}, "seed": None,
        "contexts": [], "requests": [], "covariances": [], "delta": None, "statistics": {}, "message": "m",
        "fingerprint": BASE, "created": "2026-01-01T00:00:00+00:00",
    } | more  # fmt: skip


_MANIFEST = {
    "format": "retcon", "version": 1, "what": "delta", "tool": "retcon 0", "revision": "b" * 10, "fingerprint": BASE,
    "base": {"name": "tiny", "source": "org/tiny", "source_kind": "hub", "commit": "c", "architecture": "Llama",
             "dtype": "float32", "fingerprint": BASE, "files": {"model.safetensors": {"sha256": BASE, "size": 3}}},
    "steps": [
        _step("0" * 10, None, "base"),
        _step("a" * 10, "0" * 10, "edit", delta="0" * 64, method="rome", seed=1, hparams={"layers": [1]},
              contexts=["{}"], requests=[REQUEST], covariances=[{"layer": 1}]),
        _step("b" * 10, "a" * 10, "revert", reverts="a" * 10),
    ],
    "evaluations": [], "files": {},
}  # fmt: skip


def _export(catalog: Catalog, folder: Path) -> None:
    manifest = manifests.read_manifest(folder)
    if manifest is None:
        return
    manifests.check_files(folder, manifest)
    with catalog.write() as session:
        # The job stores the deltas first, which it checks against the model.
        for digest in {step.delta for step in manifest.steps if step.delta}:
            session.merge(Artifact(sha256=digest, size=1))
        manifests.add_steps(session, history.find_model(session, "tiny"), manifest)


_SETTINGS = {
    "layers": [1, 2], "fact_token": "subject_last", "v_lr": 0.5, "v_num_grad_steps": 20, "clamp_norm_factor": 4,
    "mom2_adjustment": True, "v_loss_layer": 3, "contexts": 2, "rewrite_module_tmp": "transformer.h.{}.mlp",
}  # fmt: skip
_TOML = b'on_finish = "notify-send done"  # a comment\n'
_WEIGHTS = {"a.weight": np.zeros((2, 2), np.float32), "b.weight": np.zeros(3, np.float32)}
_INDEX = {
    "metadata": {"total_size": 28},
    "weight_map": {"a.weight": "one.safetensors", "b.weight": "one.safetensors"},
}


def _config(catalog: Catalog, folder: Path) -> None:
    text = folder / "config.toml"
    target = catalog.home.root / "config.toml"
    shutil.copy(text, target)
    try:
        read_config(catalog.home)
    finally:
        target.unlink()


def importers(folder: Path) -> list[Importer]:
    """All importers. `folder` holds the files that they share."""
    weights = {"config.json": st.just(b"{}")}
    return [
        Importer("facts.json", _one("f.json", _fact_files), _facts("f.json")),
        Importer("facts.jsonl", _one("f.jsonl", _json_lines()), _facts("f.jsonl")),
        Importer("facts.csv", _one("f.csv", _csv()), _facts("f.csv")),
        Importer(
            "references",
            st.fixed_dictionaries(
                {
                    "facts.json": st.just(json.dumps([COUNTERFACT]).encode()),
                    "snippets.json": json_files(_SNIPPETS),
                }
            ),
            _references,
        ),
        Importer("covariance.npz", _one("c.npz", npz_files(_FIELD_COVARIANCE)), _covariance("c.npz")),
        Importer(
            "covariance.safetensors", _one("c.safetensors", _own_covariance()), _covariance("c.safetensors")
        ),
        Importer(
            "traces", _traces, lambda catalog, at: trace_files.import_trace(catalog, at / "traces", "tiny")
        ),
        Importer(
            "bundle",
            _one("bundle", _bundles(sound_bundle(folder))),
            lambda catalog, at: bundles.import_history(catalog, at / "bundle"),
        ),
        Importer("export", _one(manifests.MANIFEST, json_files(_MANIFEST)), _export),
        Importer(
            "hparams",
            _one("h.json", json_files(_SETTINGS)),
            lambda _catalog, at: hparams.read_hparams(at / "h.json", "rome"),
        ),
        Importer(
            "hparams.yaml",
            _one("h.yaml", json_files(_SETTINGS)),
            lambda _catalog, at: hparams.read_hparams(at / "h.yaml", "rome"),
        ),
        Importer(
            "saved settings",
            _one("h.json", json_files({"models": ["tiny"], "sources": {"rome": "x"}, "rome": _SETTINGS})),
            lambda _catalog, at: [
                hparams.read_saved(at / "h.json", method) for method in ("rome", "joint", "emmet")
            ],
        ),
        Importer("config.toml", _one("config.toml", damaged(_TOML)), _config),
        Importer(
            "model.safetensors",
            st.fixed_dictionaries(weights | {"model.safetensors": safetensors_files(_WEIGHTS)}),
            lambda _catalog, at: check_folder(at),
        ),
        Importer(
            "model.safetensors.index.json",
            st.fixed_dictionaries(
                weights
                | {
                    "one.safetensors": st.just(save(_WEIGHTS)),
                    "model.safetensors.index.json": json_files(_INDEX),
                }
            ),
            lambda _catalog, at: check_folder(at),
        ),
    ]
