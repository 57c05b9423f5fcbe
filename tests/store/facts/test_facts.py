"""Fact files: all supported formats and their former field names."""

import json
from pathlib import Path

import pytest
from sqlmodel import Session, select

from retcon.prompts import clean_target, make_template
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import FactSet
from retcon.store.errors import InputError, NotFound
from retcon.store.facts.sets import find_fact_set, list_facts, read_fact_file, save_facts
from retcon.tests.helpers.records import COUNTERFACT, CSV, KNOWN, PLAIN, ZSRE, write


@pytest.mark.parametrize(
    "paraphrases", ["paraphrases", "paraphrase_prompts", "rephrase_prompt", "eval_paraphrases"]
)
def test_former_field_names_still_load(paraphrases: str, tmp_path: Path) -> None:
    record = {
        "subject": "Eiffel Tower",
        "prompt": "{} is in",
        "ground_truth": "Paris",
        "wordings": ["The {} stands in"],
        paraphrases: ["Where is the {}?"],
        "neighbours": ["The Louvre is in"],
    }
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([record]))
    (fact,) = read_fact_file(path)[1]
    assert fact.target_true == "Paris"
    assert fact.train_paraphrases == ["The {} stands in"]
    assert fact.eval_paraphrases == ["Where is the Eiffel Tower?"]
    assert fact.neighbors == [{"prompt": "The Louvre is in", "true": "Paris"}]
    assert fact.origin == {}


def test_known_facts(tmp_path: Path) -> None:
    format, (fact,) = read_fact_file(write(tmp_path, [KNOWN]))
    assert format == "known facts"
    # The prompt of the published traces, not the shorter template.
    assert (fact.subject, fact.prompt) == ("Vinson Massif", "{} is located in the continent of")
    assert (fact.target_true, fact.target_new) == ("Antarctica", None)
    assert fact.origin["known_id"] == 0
    assert fact.origin["relation_id"] == "P30"
    assert fact.origin["template"] == KNOWN["template"]


def test_known_facts_with_a_template_alone(tmp_path: Path) -> None:
    record = {name: value for name, value in KNOWN.items() if name != "prompt"}
    (fact,) = read_fact_file(write(tmp_path, [record]))[1]
    assert fact.prompt == KNOWN["template"]


def test_counterfact(tmp_path: Path) -> None:
    format, (fact,) = read_fact_file(write(tmp_path, [COUNTERFACT]))
    assert format == "CounterFact"
    assert (fact.subject, fact.prompt) == ("Danielle Darrieux", "The mother tongue of {} is")
    assert (fact.target_true, fact.target_new) == ("French", "English")
    assert fact.eval_paraphrases == COUNTERFACT["paraphrase_prompts"]
    assert fact.neighbors == [{"prompt": "The native language of Montesquieu is", "true": "French"}]
    assert fact.origin["case_id"] == 0
    assert fact.origin["relation_id"] == "P103"
    assert fact.generation_prompts == COUNTERFACT["generation_prompts"]


def test_zsre(tmp_path: Path) -> None:
    format, (fact,) = read_fact_file(write(tmp_path, [ZSRE]))
    assert format == "zsRE"
    assert fact.prompt == "What university did {} take part in?"
    assert (fact.target_true, fact.target_new) == (
        "Illinois Institute of Technology",
        "University of Michigan",
    )
    assert fact.eval_paraphrases == [ZSRE["rephrase"]]
    assert fact.neighbors == [{"prompt": f"{ZSRE['loc']}?", "true": "Hugo Weaving"}]
    assert fact.origin == {"pred": ZSRE["pred"], "cond": ZSRE["cond"]}


def test_plain_record_with_all_fields(tmp_path: Path) -> None:
    record = {
        "case_id": 4,
        "p_true_before": 0.35,
        **PLAIN,
        "paraphrases": ["The city of {} is", "Eiffel Tower stands in"],
        "neighbors": [{"prompt": "The Louvre is in", "true": "Paris", "same_true": True}],
    }
    format, (fact,) = read_fact_file(write(tmp_path, [record]))
    assert format == "plain"
    assert fact.eval_paraphrases == ["The city of Eiffel Tower is", "Eiffel Tower stands in"]
    assert fact.neighbors == record["neighbors"]
    assert fact.origin == {"case_id": 4, "p_true_before": 0.35}


def test_request_in_rome_format(tmp_path: Path) -> None:
    (fact,) = read_fact_file(write(tmp_path, {**PLAIN, "target_new": {"str": " Rome "}}))[1]
    assert fact.target_new == "Rome"


def test_json_lines_by_any_name(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({**PLAIN, "prompt": f"{{}} {number}"}) for number in range(3)) + "\n\n"
    for name in ("facts.jsonl", "facts.ndjson", "facts.json", "facts.txt", "facts"):
        facts = read_fact_file(write(tmp_path, text, name))[1]
        assert [fact.prompt for fact in facts] == ["{} 0", "{} 1", "{} 2"]
        assert [fact.position for fact in facts] == [0, 1, 2]


def test_line_separator_in_string_is_not_a_line_end(tmp_path: Path) -> None:
    text = json.dumps({**PLAIN, "note": "a\u2028b"}, ensure_ascii=False)
    assert len(read_fact_file(write(tmp_path, text, "facts.jsonl"))[1]) == 1


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv(tmp_path: Path, separator: str) -> None:
    text = "\ufeff" + CSV.replace('"Doe, Jane"', "Doe Jane").replace(",", separator).replace("\n", "\r\n")
    one, two = read_fact_file(write(tmp_path, text.encode(), "facts.csv"))[1]
    assert (one.subject, one.prompt, one.target_new, one.target_true) == (
        "Eiffel Tower",
        "The {} is in",
        "Rome",
        "Paris",
    )
    assert (two.subject, two.target_true) == ("Doe Jane", None)


def test_csv_with_quotes_and_lists(tmp_path: Path) -> None:
    text = (
        "subject,prompt,target_true,paraphrases,neighbors\n"
        '"Doe, Jane","{} said ""I am a",poet,"[""She, {}, is a"", ""Jane""]",John is a\n'
    )
    (fact,) = read_fact_file(write(tmp_path, text, "facts.csv"))[1]
    assert (fact.subject, fact.prompt) == ("Doe, Jane", '{} said "I am a')
    assert fact.eval_paraphrases == ["She, Doe, Jane, is a", "Jane"]
    assert fact.neighbors == [{"prompt": "John is a", "true": "poet"}]


def test_templates() -> None:
    assert make_template("The {} is in", "Eiffel Tower") == "The {} is in"
    assert make_template("The Eiffel Tower is in", "Eiffel Tower") == "The {} is in"
    assert make_template("Anna told Ann that Ann", "Ann") == "Anna told {} that Ann"
    assert make_template("Antarctic", "Ant") == "{}arctic"
    assert make_template("C++ (2011) is", "C++ (2011)") == "{} is"
    for prompt, subject, why in (
        ("The tower is in", "Eiffel Tower", "not in the prompt"),
        ("the eiffel tower is in", "Eiffel Tower", "upper and lower case"),
        ("The {} is in", " ", "subject is empty"),
        ("", "Eiffel Tower", "prompt is empty"),
        ("{} and {} are", "Ann", "more than once"),
        ("{} {name} is", "Ann", "brace"),
        ("Ann { is", "Ann", "brace"),
    ):
        with pytest.raises(InputError, match=why):
            make_template(prompt, subject)


def test_targets() -> None:
    assert clean_target(" Rome\n") == "Rome"
    for empty in ("", "  ", "\n"):
        with pytest.raises(InputError, match="is empty"):
            clean_target(empty)


def import_facts(session: Session, path: Path, name: str) -> FactSet:
    format, facts = read_fact_file(path)
    return save_facts(session, facts, name, str(path), format)


def test_import(catalog: Catalog, tmp_path: Path) -> None:
    path = write(tmp_path, [PLAIN, {**PLAIN, "prompt": "The {} stands in"}])
    with catalog.write() as session:
        fact_set = import_facts(session, path, "towers")
    assert (fact_set.name, fact_set.source, fact_set.format) == ("towers", str(path), "plain")
    with catalog.read() as session:
        found = find_fact_set(session, "towers")
        assert [fact.prompt for fact in list_facts(session, found)] == ["{} is in", "The {} stands in"]
        with pytest.raises(NotFound, match="existing sets are towers"):
            find_fact_set(session, "tower")


def test_failed_import_adds_nothing(catalog: Catalog, tmp_path: Path) -> None:
    good = write(tmp_path, [PLAIN])
    bad = write(tmp_path, [PLAIN, {}], "bad.json")
    with catalog.write() as session:
        import_facts(session, good, "towers")
    for path, name, why in (
        (good, "towers", "already"),
        (bad, "new", "record 2"),
        (good, " ", "not a valid name"),
    ):
        with pytest.raises(InputError, match=why), catalog.write() as session:
            import_facts(session, path, name)
    with catalog.read() as session:
        assert [one.name for one in session.exec(select(FactSet))] == ["towers"]
