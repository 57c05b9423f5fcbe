"""Specs survive the catalog, and a row with a wrong spec gives one sentence."""

import json
from typing import Any

import pytest

from retcon.engine.jobs.specs import SPECS, EditSpec, PassageSpec, PublishSpec, Spec, TraceSpec, read_spec
from retcon.store.errors import InputError


@pytest.mark.parametrize(
    "spec",
    [
        TraceSpec("tiny", prompt="Paris is in", subject="Paris", shard=1, shards=3),
        EditSpec("tiny", [{"subject": "Paris"}], hparams={"layers": [1]}, batch=2),
        PublishSpec("tiny", "me/tiny", pictures=[("map.png", "a" * 64, "A map")]),
        PassageSpec("tiny", facts="x").build_edit([], "base"),
    ],
    ids=["trace", "edit", "publish", "passage edit"],
)
def test_a_spec_survives_json(spec: Spec) -> None:
    assert read_spec(spec.kind, json.loads(json.dumps(spec.as_dict()))) == spec


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        ("dance", {}, "unknown kind of job 'dance'; valid kinds: model, trace"),
        ("trace", {}, "kind trace: model: Field required"),
        ("trace", {"model": "tiny", "seeed": 1}, "kind trace: seeed: Unexpected keyword"),
        (
            "trace",
            {"model": "tiny", "samples": "many"},
            "kind trace: samples: Input should be a valid integer",
        ),
        ("covariance", {"model": "tiny", "layers": [1, None]}, r"kind covariance: layers.1: "),
    ],
)
def test_a_wrong_spec_is_refused(kind: str, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_spec(kind, values)


@pytest.mark.parametrize(
    ("kind", "old", "new", "value"),
    [
        ("trace", "trace", "extends", 3),
        ("sweep", "tries", "grid", {"v_lr": [0.1]}),
        ("export", "what", "export_kind", "adapter"),
        ("publish", "what", "export_kind", "adapter"),
        ("passage", "against", "baselines", ["prompt"]),
        ("preflight", "of", "job_spec", {"model": "tiny"}),
    ],
)
def test_specs_of_old_catalogs_load(kind: str, old: str, new: str, value: Any) -> None:
    required = {
        "sweep": {"requests": [], "layers": [1], "hparams": {}},
        "export": {"folder": "out"},
        "publish": {"repo": "me/tiny"},
        "preflight": {"of_kind": "trace"},
    }
    spec = read_spec(kind, {"model": "tiny", old: value} | required.get(kind, {}))
    assert getattr(spec, new) == value


def test_each_kind_is_registered_under_its_name() -> None:
    assert all(SPECS[kind].kind == kind for kind in SPECS)
