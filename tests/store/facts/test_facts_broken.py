"""Errors for invalid fact files name the file, the record, the field and the expectation."""

from pathlib import Path
from typing import Any

import pytest

from retcon.store.errors import InputError
from retcon.store.facts.sets import read_fact_file
from retcon.tests.helpers.records import COUNTERFACT, CSV, KNOWN, PLAIN, ZSRE, write


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def rewritten(**changes: Any) -> dict[str, Any]:
    return {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], **changes}}  # type: ignore[dict-item]


BROKEN: list[tuple[str, Any, str]] = [
    # The name of the file, its content, and a part of the message.
    ("f.json", "", r"is empty"),
    ("f.json", " \n\n", r"is empty"),
    ("f.json", [], r"has no records"),
    ("f.csv", "subject,prompt\n", r"has no records"),
    ("f.json", "[1, 2", r"line 1, column \d+: this is not JSON"),
    ("f.json", '[\n{"subject": "a",\n "prompt" "b"}]', r"line 3, column 11: this is not JSON"),
    ("f.json", '[{"a": 1},]', r"this is not JSON"),
    ("f.json", "[" * 100_000, r"nested too deep|not JSON"),
    ("f.json", "17", r"contains a number: expected a list"),
    ("f.json", '"facts"', r"contains a string"),
    ("f.json", {"facts": [PLAIN]}, r"contains an object: expected a list"),
    ("f.json", [PLAIN, 3], r"record 2: this is a number"),
    ("f.json", [PLAIN, None], r"record 2: this is null"),
    ("f.json", [PLAIN, [PLAIN]], r"record 2: this is a list"),
    ("f.json", [{}], r"record 1: field 'subject' is missing .*no field"),
    ("f.jsonl", '{"subject": "a", "prompt": "{} b"}\n\n{oops}\n', r"line 3, column 2: this is not JSON"),
    ("f.jsonl", '{"subject": "a", "prompt": "{} b"}\n\n{"subject": "a"}\n', r"record 2 \(line 3\).*'prompt'"),
    ("f.json", b"\xff\xfe[\x00]\x00", r"not UTF-8"),
    ("f.csv", "subject,prompt\nJos\u00e9,{} is".encode("latin-1"), r"not UTF-8 \(byte 18"),
    ("f.json", [without(PLAIN, "subject")], r"record 1: field 'subject' is missing"),
    ("f.json", [without(PLAIN, "prompt")], r"record 1: field 'prompt' is missing"),
    ("f.json", [{**without(PLAIN, "subject"), "subjct": "a"}], r"'subject' is missing.*'subjct' meant"),
    (
        "f.json",
        [PLAIN, {**without(PLAIN, "target_new"), "target_nw": "a"}],
        r"record 2: unknown field 'target_nw': is 'target_new' meant",
    ),
    ("f.json", [{**PLAIN, "paraphrase": ["a"]}], r"unknown field 'paraphrase': is 'paraphrase"),
    ("f.json", [{**PLAIN, "neighborhood_prompt": ["a"]}], r"is 'neighborhood_prompts' meant"),
    ("f.json", [{**PLAIN, "subject": 3}], r"field 'subject' is a number: expected a string"),
    ("f.json", [{**PLAIN, "subject": ""}], r"field 'subject' is empty"),
    ("f.json", [{**PLAIN, "subject": None}], r"field 'subject' is missing"),
    ("f.json", [{**PLAIN, "prompt": ["a"]}], r"field 'prompt' is a list"),
    (
        "f.json",
        [{**PLAIN, "prompt": "It is in"}],
        r"record 1: the subject 'Eiffel Tower' is not in the prompt",
    ),
    ("f.json", [{**PLAIN, "prompt": "{} and {}"}], r"record 1: .*more than once"),
    ("f.json", [{**PLAIN, "target_new": ""}], r"record 1: field 'target_new' is empty"),
    ("f.json", [{**PLAIN, "target_new": " "}], r"record 1: field 'target_new' is empty"),
    ("f.json", [{**PLAIN, "target_true": ""}], r"field 'target_true' is empty"),
    ("f.json", [{**PLAIN, "target_new": 7}], r"field 'target_new' is a number"),
    ("f.json", [{**PLAIN, "target_new": {"id": "Q1"}}], r"field 'target_new' is null"),
    ("f.json", [{**PLAIN, "target_new": True}], r"field 'target_new' is true or false"),
    ("f.json", [{**PLAIN, "target_new": "\ud800"}], r"not text"),
    ("f.json", [{**PLAIN, "subject": "a\x00"}], r"not text"),
    ("f.json", [{**PLAIN, "paraphrases": 3}], r"field 'paraphrases' is a number: expected a list"),
    ("f.json", [{**PLAIN, "paraphrases": ["a", 3]}], r"field 'paraphrases\[1\]' is a number"),
    ("f.json", [{**PLAIN, "paraphrases": [""]}], r"field 'paraphrases\[0\]' is empty"),
    ("f.json", [{**PLAIN, "neighbors": [{"prompt": "a"}]}], r"field 'neighbors\[0\]' has no 'true'"),
    (
        "f.json",
        [{**PLAIN, "neighbors": [{"prompt": 1, "true": "b"}]}],
        r"'neighbors\[0\].prompt' is a number",
    ),
    ("f.json", [{**without(PLAIN, "target_true"), "neighbors": ["a"]}], r"'neighbors\[0\]' has no answer"),
    ("f.json", [{**KNOWN, "attribute": ""}], r"field 'attribute' is empty"),
    ("f.json", [without(without(KNOWN, "prompt"), "template")], r"field 'prompt' is missing"),
    (
        "f.json",
        [KNOWN, without(KNOWN, "subject")],
        r"record 2: field 'subject' is missing \(in known facts\)",
    ),
    (
        "f.json",
        [{**COUNTERFACT, "requested_rewrite": "a"}],
        r"'requested_rewrite' is a string: expected an object",
    ),
    ("f.json", [COUNTERFACT, PLAIN], r"record 2: field 'requested_rewrite' is missing"),
    (
        "f.json",
        [{**without(COUNTERFACT, "requested_rewrite"), "requested_rewrites": {}}],
        r"field 'subject' is missing",
    ),
    ("f.json", [rewritten(subject=None)], r"field 'requested_rewrite.subject' is missing"),
    ("f.json", [rewritten(target_new=None)], r"field 'requested_rewrite.target_new' is missing"),
    ("f.json", [rewritten(target_true={"str": ""})], r"field 'requested_rewrite.target_true' is empty"),
    (
        "f.json",
        [rewritten(prompt="The mother tongue is")],
        r"record 1: the subject 'Danielle Darrieux' is not in",
    ),
    (
        "f.json",
        [{**COUNTERFACT, "paraphrase_prompts": {}}],
        r"'paraphrase_prompts' is an object: expected a list",
    ),
    ("f.json", [without(ZSRE, "alt")], r"field 'alt' is missing \(in zsRE\)"),
    ("f.json", [without(ZSRE, "loc_ans")], r"field 'loc_ans' is missing"),
    ("f.json", [{**ZSRE, "subject": "Watt Humphreys"}], r"is not in the prompt"),
    ("f.csv", "subject,prompt\nAnn,{} is,more\n", r"record 1 \(line 2\): 3 cells, but the header names 2"),
    ("f.csv", "subject,prompt\nAnn\n", r"record 1 \(line 2\): 1 cells"),
    ("f.csv", "subject,prompt,prompt\nAnn,{} is,a\n", r"line 1: the column 'prompt' occurs twice"),
    ("f.csv", "subject,,prompt\nAnn,a,{} is\n", r"line 1: column 2 has no name"),
    ("f.csv", 'subject,prompt\nAnn,"{} is\n', r"line \d: this is not CSV"),
    (
        "f.csv",
        "subjects,prompt\nAnn,{} is\n",
        r"record 1 \(line 2\): field 'subject' is missing.*'subjects' meant",
    ),
    ("f.csv", CSV + "\nBob,{} is a,,x\n", r"record 3 \(line 5\): field 'target_new' is empty"),
    ("f.csv", CSV + "Bob,he is a,b,x\n", r"record 3 \(line 4\): the subject 'Bob' is not in the prompt"),
    (
        "f.csv",
        "subject,prompt,paraphrases\nAnn,{} is,[a\n",
        r"'paraphrases' begins with a bracket but is not JSON",
    ),
    ("f.txt", "Just some words.", r"has no records"),
]


@pytest.mark.parametrize(("name", "content", "says"), BROKEN)
def test_broken_files(tmp_path: Path, name: str, content: Any, says: str) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(InputError, match=says) as caught:
        read_fact_file(path)[1]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_fact_file(tmp_path / name)[1]
