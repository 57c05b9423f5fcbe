"""Fact files of evaluation suites: MQuAKE, MultiCounterFact, extras, Hub data sets, reference texts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retcon.store.errors import InputError
from retcon.store.facts.references import add_references
from retcon.store.facts.sets import read_fact_file
from retcon.tests.helpers.records import COUNTERFACT, PLAIN, write


def rewrite(subject: str, prompt: str, new: str, true: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "relation_id": "P108",
        "target_new": {"str": new, "id": f"Q-{new}"},
        "target_true": {"str": true, "id": f"Q-{true}"},
        "subject": subject,
        "question": f"Who of {subject}?",
    }


MQUAKE = {
    "case_id": 7,
    "requested_rewrite": [
        rewrite("Ellie Kemper", "{} is a citizen of", "Croatia", "United States"),
        rewrite("Croatia", "The head of state of {} is", "Ada Lovelace", "Zoran"),
    ],
    "questions": ["Who leads the country of Ellie Kemper?", "Who is head of state where Ellie Kemper lives?"],
    "answer": "Joe Biden",
    "answer_alias": ["Biden"],
    "new_answer": "Ada Lovelace",
    "new_answer_alias": ["Lovelace", "Countess of Lovelace"],
    "single_hops": [{"question": "Which country?", "answer": "United States"}],
    "new_single_hops": [{"question": "Which country?", "answer": "Croatia"}],
}


def test_mquake(tmp_path: Path) -> None:
    format, facts = read_fact_file(write(tmp_path, [MQUAKE, MQUAKE]))
    assert format == "MQuAKE"
    assert [fact.position for fact in facts] == [0, 1, 2, 3]
    first, second = facts[:2]
    assert (first.subject, first.prompt, first.target_new) == (
        "Ellie Kemper",
        "{} is a citizen of",
        "Croatia",
    )
    assert (second.subject, second.target_true) == ("Croatia", "Zoran")
    answers = ["Ada Lovelace", "Lovelace", "Countess of Lovelace"]
    assert first.portability == [{"prompt": text, "answers": answers} for text in MQUAKE["questions"]]
    assert second.portability == []
    assert first.origin["new_single_hops"] == MQUAKE["new_single_hops"] and first.origin["case_id"] == 7
    assert second.origin["question"] == "Who of Croatia?"


def test_multicounterfact(tmp_path: Path) -> None:
    """Records of MultiCounterFact have no generation prompts, and may have no paraphrases."""
    record = {name: COUNTERFACT[name] for name in ("case_id", "requested_rewrite", "neighborhood_prompts")}
    format, (fact,) = read_fact_file(write(tmp_path, [record | {"paraphrase_prompts": []}]))
    assert format == "CounterFact"
    assert (fact.eval_paraphrases, fact.generation_prompts) == ([], [])
    assert fact.origin["target_new_id"] == "Q1860"


def test_plain_extras(tmp_path: Path) -> None:
    extras = {
        "negations": ["{} is not in", "Nobody found the Eiffel Tower in"],
        "portability": [{"prompt": "Who is mayor there?", "answers": "Hidalgo"}],
        "generation_prompts": ["{} is known for"],
        "references": ["Rome is old.", {"name": "Eiffel Tower", "text": "It is tall."}],
    }
    (fact,) = read_fact_file(write(tmp_path, [PLAIN | extras]))[1]
    assert fact.negations == ["Eiffel Tower is not in", "Nobody found the Eiffel Tower in"]
    assert fact.portability == [{"prompt": "Who is mayor there?", "answers": ["Hidalgo"]}]
    assert fact.generation_prompts == ["Eiffel Tower is known for"]
    assert fact.references == [
        {"text": "Rome is old.", "name": None},
        {"text": "It is tall.", "name": "Eiffel Tower"},
    ]
    assert fact.origin == {}


def test_plain_extras_in_csv(tmp_path: Path) -> None:
    cell = json.dumps([{"prompt": "Who?", "answers": ["a", "b"]}]).replace('"', '""')
    text = f'subject,prompt,target_new,portability\nEiffel Tower,{{}} is in,Rome,"{cell}"\n'
    (fact,) = read_fact_file(write(tmp_path, text, "facts.csv"))[1]
    assert fact.portability == [{"prompt": "Who?", "answers": ["a", "b"]}]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (MQUAKE | {"requested_rewrite": []}, "'requested_rewrite' is empty"),
        (MQUAKE | {"requested_rewrite": ["x"]}, "'requested_rewrite[0]' is a string"),
        (MQUAKE | {"new_answer": 3}, "'new_answer' is a number"),
        ({k: v for k, v in MQUAKE.items() if k != "new_answer"}, "'new_answer' is missing"),
        ({k: v for k, v in MQUAKE.items() if k != "questions"} | {"question": 1}, "is 'question' meant?"),
        (MQUAKE | {"questions": [1]}, "'questions[0]' is a number"),
        (PLAIN | {"portability": ["Who?"]}, "'portability[0]' is a string"),
        (PLAIN | {"portability": [{"prompt": "Who?"}]}, "'portability[0]' has no 'answers'"),
        (
            PLAIN | {"portability": [{"prompt": "Who?", "answers": [1]}]},
            "'portability[0].answers[0]' is a number",
        ),
        (PLAIN | {"references": [{"name": "x"}]}, "'references[0].text' is null"),
        (PLAIN | {"negation": ["x"]}, "unknown field 'negation': is 'negations' meant?"),
    ],
)
def test_broken_extras(record: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_fact_file(write(tmp_path, [PLAIN if "subject" in record else MQUAKE, record]))[1]
    assert expected in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/facts.json, record 2")


SNIPPETS = [
    {
        "relation_id": "P103",
        "target_id": "Q1860",
        "samples": [
            {"name": "Danielle Darrieux", "text": "She spoke English.", "other": 1},
            {"name": "Somebody", "text": "He too."},
        ],
    },
    {"relation_id": "P103", "target_id": "Q150", "samples": [{"name": "X", "text": "French."}]},
]


def test_reference_texts(tmp_path: Path) -> None:
    facts = read_fact_file(write(tmp_path, [COUNTERFACT]))[1]
    assert add_references(facts, write(tmp_path, SNIPPETS, "snippets.json")) == 1
    assert facts[0].references == [
        {"name": "Danielle Darrieux", "text": "She spoke English."},
        {"name": "Somebody", "text": "He too."},
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (SNIPPETS[1:], "has no text for any fact"),
        ("{", "is not JSON"),
        ([{"relation_id": "P103"}], "has another form"),
        ({"a": 1}, "has another form"),
        (None, "cannot be read"),
    ],
)
def test_broken_reference_texts(content: Any, expected: str, tmp_path: Path) -> None:
    facts = read_fact_file(write(tmp_path, [COUNTERFACT]))[1]
    path = tmp_path / "snippets.json"
    if content is not None:
        write(tmp_path, content, "snippets.json")
    with pytest.raises(InputError, match=expected):
        add_references(facts, path)
    assert facts[0].references == []


def hub_folder(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> str:
    """A folder with the layout of a data set on the Hub. `datasets` reads it in the same way."""
    for split, records in splits.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return f"hub:{folder}"


# Each case starts a process that imports datasets, so only formats with other nesting are tested.
@pytest.mark.parametrize("record", [COUNTERFACT, MQUAKE, PLAIN], ids=lambda one: "".join(one)[:20])
def test_data_set_equals_file(record: dict[str, Any], tmp_path: Path) -> None:
    other = {name: value for name, value in record.items() if name not in ("case_id", "known_id", "cond")}
    source = hub_folder(tmp_path / "set", {"train": [record, other]})
    format, facts = read_fact_file(source)
    expected_format, expected = read_fact_file(write(tmp_path, [record, other]))
    assert format == expected_format
    assert [fact.model_dump() for fact in facts] == [fact.model_dump() for fact in expected]


def test_splits_of_a_data_set(tmp_path: Path) -> None:
    other = PLAIN | {"target_new": "Oslo"}
    source = hub_folder(tmp_path / "set", {"train": [PLAIN], "test": [other, other]})
    assert [fact.target_new for fact in read_fact_file(source)[1]] == ["Rome"]
    assert [fact.target_new for fact in read_fact_file(f"{source}@test")[1]] == ["Oslo", "Oslo"]
    with pytest.raises(InputError, match=r"has no split 'dev': give one of train, test"):
        read_fact_file(f"{source}@dev")
    with pytest.raises(InputError, match="cannot be opened: BuilderConfig 'other' not found"):
        read_fact_file(f"{source}:other")


def test_invalid_record_of_data_set_is_named(tmp_path: Path) -> None:
    source = hub_folder(
        tmp_path / "set", {"train": [PLAIN, PLAIN | {"subject": "Unknown", "prompt": "It is"}]}
    )
    with pytest.raises(InputError) as error:
        read_fact_file(source)
    assert str(error.value).startswith(f"{source}, record 2: the subject 'Unknown' is not in the prompt")


@pytest.mark.parametrize("source", ["hub:", "hub:@train", "hub::config"])
def test_empty_data_set_name_is_rejected(source: str) -> None:
    with pytest.raises(InputError, match="does not name a data set"):
        read_fact_file(source)


def test_unreachable_hub_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError) as error:
        read_fact_file("hub:someone/counterfact")
    assert str(error.value).startswith("the data set 'hub:someone/counterfact' cannot be opened: ")
    assert "\n" not in str(error.value)


def test_reading_a_data_set_loads_no_torch(tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "set", {"train": [PLAIN]})
    program = (
        "import sys; from retcon.store.facts.sets import read_fact_file; read_fact_file(sys.argv[1]);"
        "print(*{'torch', 'datasets', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == ""
