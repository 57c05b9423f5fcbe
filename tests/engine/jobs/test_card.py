"""The model card is built from the history, and untrusted text cannot add markup."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from retcon.engine.jobs.publication.card import CardInfo, build_card
from retcon.engine.jobs.publication.licenses import License, find_license
from retcon.store.catalog.tables import Model
from retcon.store.exchange.manifest import Base, File, Manifest, Step

EVIL = "x | y\n## Mine\n<script>[a](http://b) `c` **d**"


def step(id: str, kind: str, parent: str | None, **more: Any) -> Step:
    fields: dict[str, Any] = {
        "id": id, "parent": parent, "kind": kind, "reverts": None, "method": None, "hparams": {}, "seed": None,
        "contexts": [], "requests": [], "covariances": [], "delta": None, "statistics": {}, "message": "",
        "fingerprint": "a" * 64, "created": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Step(**fields | more)


def manifest(what: str = "checkpoint", kind: str = "hub", **more: Any) -> Manifest:
    base = Base(
        "b",
        "org/base",
        kind,
        "c" * 40,
        "Llama",
        "float32",
        "b" * 64,
        {"model.safetensors": File("d" * 64, 9)},
    )
    request = {"subject": EVIL, "prompt": "{} is in", "target_new": EVIL, "target_true": None}
    edit = step("1" * 10, "edit", "0" * 10, method="rome", requests=[request], delta="e" * 64, seed=1)
    steps = [step("0" * 10, "base", None), edit]
    files = {"model-1.safetensors": File("f" * 64, 3)}
    fields: dict[str, Any] = {"steps": steps, "evaluations": [], "revision": "1" * 10} | more
    return Manifest(
        what, "retcon 9", fields["revision"], "a" * 64, base, fields["steps"], fields["evaluations"], files
    )


def header(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


@pytest.mark.parametrize(
    ("what", "relation", "library"),
    [("checkpoint", "finetune", "transformers"), ("adapter", "adapter", "peft")],
)
def test_the_header_that_the_hub_reads(what: str, relation: str, library: str) -> None:
    fields = header(build_card(manifest(what), CardInfo("me/x", License("llama3"))))
    assert (fields["base_model"], fields["base_model_relation"], fields["library_name"]) == (
        "org/base",
        relation,
        library,
    )
    assert (
        fields["license"] == "llama3"
        and fields["pipeline_tag"] == "text-generation"
        and "rome" in fields["tags"]
    )


def test_untrusted_text_is_escaped() -> None:
    card = build_card(manifest(), CardInfo("me/x"))
    assert "\n## Mine" not in card and "<script>" not in card
    (row,) = [line for line in card.splitlines() if line.startswith("| `1111111111`")]
    assert row.replace(r"\|", "").count("|") == 9
    assert r"\[a\](http://b) \`c\` \*\*d\*\*" in row


def test_the_card_of_a_rolled_back_base() -> None:
    steps = [step("0" * 10, "base", None)]
    card = build_card(manifest(steps=steps, revision="0" * 10), CardInfo("me/x", rolled_back_from="9" * 10))
    assert "the base's own weights, to the bit" in card and f"`{'9' * 10}`" in card
    assert "## Edits" not in card and "## How to undo" not in card


def test_the_card_lists_reverted_edits() -> None:
    one = manifest()
    more = [step("2" * 10, "edit", "1" * 10, method="rome", delta="e" * 64, requests=one.steps[1].requests, seed=1),
            step("3" * 10, "revert", "2" * 10, reverts="1" * 10)]  # fmt: skip
    card = build_card(manifest(steps=[*one.steps, *more], revision="3" * 10), CardInfo("me/x"))
    assert "1 fact changed in 1 edit" in card
    assert "Reverted, and not in these weights: `1111111111`" in card


def evaluation(revision: str, value: float, **protocol: Any) -> dict[str, Any]:
    metric = {"value": value, "low": value - 0.1, "high": value + 0.1, "count": 7}
    fields = {"cases": 7, "cases_sha256": "x", "seed": 1, "facts": "mine"} | protocol
    return {
        "revision": revision,
        "created": "",
        "protocol": fields,
        "metrics": {"ES": metric},
        "retention": [],
    }


def test_scores_of_the_base_need_the_same_protocol() -> None:
    after = evaluation("1" * 10, 0.9)
    card = build_card(manifest(evaluations=[evaluation("0" * 10, 0.2), after]), CardInfo("me/x"))
    assert "| 0.200 (0.100 to 0.300) | 0.900 (0.800 to 1.000) | 7 |" in card
    other = evaluation("0" * 10, 0.2, cases_sha256="y")
    card = build_card(manifest(evaluations=[other, after]), CardInfo("me/x"))
    assert "0.200" not in card and "was not evaluated under the same protocol" in card
    (result,) = header(card)["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.9


def model(folder: Path, kind: str = "hub") -> Model:
    return Model(
        name="b", source="org/base", source_kind=kind, path=str(folder), architecture="", dtype="float32",
        parameters=1, size=1, fingerprint="",
    )  # fmt: skip


def test_the_license_comes_from_the_base(tmp_path: Path) -> None:
    assert find_license(model(tmp_path)) == License()
    assert "--license" in (find_license(model(tmp_path)).find_warning("me/x") or "")
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: llama3\nlicense_link: L\n---\n# x\n"
    )
    found = find_license(model(tmp_path))
    assert found == License("other", "llama3", "L")
    assert "Llama" in (found.find_warning("me/x") or "") and found.find_warning("me/Llama-x") is None
    assert "Built with Llama" in build_card(manifest(), CardInfo("me/x", found))
    assert find_license(model(tmp_path), "mit") == License("mit")
    assert find_license(model(tmp_path, "starter")).id == "apache-2.0"
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    assert find_license(model(tmp_path)) == License()
