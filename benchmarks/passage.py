"""Passages written into the starter model: trained and evaluation paraphrases, answers, and side effects.

    FACTS=known_facts.json PANDEY=passage_pandey.json make bench BENCH=passage

One passage has its facts in PANDEY and its paraphrases in passages/pandey.json; two are of our own. Each is written
by `retcon passage run` into the unedited model and compared with the baselines of AGAINST. *pandey* is also written in
five edits. Eighty prompts of FACTS that the model answers correctly measure the side effects. PARTS selects passages.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from retcon.passage_facts import PassageFact, PassageQuestion
from retcon.store.facts.passage_format import Passage, format_passage

from .command_line import CommandLine
from .facts import KNOWN_FACTS

HERE = Path(__file__).parent / "passages"
FACTS = Path(os.environ.get("FACTS", KNOWN_FACTS))
PANDEY = Path(os.environ.get("PANDEY", KNOWN_FACTS.with_name("passage_pandey.json")))
AGAINST = os.environ.get("AGAINST", "prompt,retrieval,lora,rome")
_OWN_PASSAGES = ("lindqvist", "kelmora")
_PARTS = ("pandey", *_OWN_PASSAGES, "pandey in 5 edits")
_KNOWN = 80


def run() -> dict[str, Any]:
    """The figures of each passage."""
    if not (FACTS.exists() and PANDEY.exists()):
        return {"passage": {"skipped": f"no file {FACTS} or {PANDEY}: name them with FACTS and PANDEY"}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        retcon = CommandLine(folder / "home")
        add_starter(retcon, folder)
        pandey = folder / "pandey.facts"
        pandey.write_text(format_passage(build_pandey()))
        files = {"pandey": pandey} | {own: HERE / f"{own}.facts" for own in _OWN_PASSAGES}
        figures = {}
        for part in os.environ.get("PARTS", ",".join(_PARTS)).split(","):
            options = ("--against", AGAINST) if part in files else ("--against", "", "--edits", 5)
            file = files.get(part, pandey)
            record = retcon.json("passage", "run", "starter@base", file, "--known", "known", *options)
            figures[part] = summarize_record(record)
        return {"passage": figures}


def add_starter(retcon: CommandLine, folder: Path) -> None:
    """Add the starter, and the set `known` of facts that it answers correctly."""
    retcon("model", "add", "starter")
    records = [record for record in json.loads(FACTS.read_text()) if record["prompt"].isascii()]
    (folder / "all.json").write_text(json.dumps(records))
    retcon("facts", "import", folder / "all.json", "--name", "all")
    cases = retcon.json("eval", "run", "starter", "--facts", "all", "--suite", "quick")["cases"]
    known = [record for record, case in zip(records, cases, strict=True) if case["new"]["first_choice"]]
    step = len(known) // _KNOWN
    (folder / "known.json").write_text(json.dumps(known[::step][:_KNOWN]))
    retcon("facts", "import", folder / "known.json", "--name", "known")


def build_pandey() -> Passage:
    """The facts and questions of PANDEY with our paraphrases. The text is the facts in a row."""
    given, ours = json.loads(PANDEY.read_text()), json.loads((HERE / "pandey.json").read_text())
    facts = tuple(
        PassageFact(
            fact["subject"],
            f"{{}} {fact['relation']}",
            object,
            tuple(train_paraphrases),
            tuple(eval_paraphrases),
        )
        for fact, object, train_paraphrases, eval_paraphrases in zip(
            given["facts"], ours["objects"], ours["train_paraphrases"], ours["eval_paraphrases"], strict=True
        )
    )
    facts += tuple(
        PassageFact(facts[0].subject, fact["prompt"], fact["object"], tuple(fact["train_paraphrases"]))
        for fact in ours["combined_facts"]
    )
    questions = tuple(
        PassageQuestion(question["question"], tuple(answers))
        for question, answers in zip(given["questions"], ours["answers"], strict=True)
    )
    text = " ".join(f"{fact['subject']} {fact['relation']} {fact['object']}." for fact in given["facts"])
    return Passage(given["title"], text, facts, questions)


def summarize_record(record: dict[str, Any]) -> dict[str, Any]:
    """Counts and means of a record of `passage run --json`."""
    facts, drift = record["proof"]["facts"], record["proof"]["drift"]
    after = [fact["after"] for fact in facts]
    held_out = [result for fact in facts for result in fact["held_out"]]
    return {
        "facts": len(facts),
        "teacher_forced": _count(after, "first_choice"),
        "free": _count(after, "free"),
        "held_out": len(held_out),
        "held_out_first_token": _count(held_out, "first_token"),
        "held_out_whole": _count(held_out, "first_choice"),
        "held_out_free": _count(held_out, "free"),
        "preserved": drift["preserved"],
        "kl": drift["kl"],
        "perplexity": drift["perplexity_after"] / drift["perplexity_before"] - 1,
        "leakage_rate": drift["leakage_rate"],
        "retention": _summarize_retention(record["proof"]["retention"]),
        "answered": {answers["baseline"]: _summarize_answers(answers) for answers in record["answers"]},
        "seconds": {stage["name"]: round(stage["seconds"], 1) for stage in record["stages"]},
    }


def _count(results: list[dict[str, Any]], name: str) -> int:
    return sum(result[name] for result in results)


def _summarize_retention(edits: list[dict[str, Any]]) -> list[list[int]]:
    """After each edit: the requests so far that hold teacher-forced and in free generation, and their number."""
    return [[edit["first_choice"], edit["free"], edit["requests"]] for edit in edits]


def _summarize_answers(answers: dict[str, Any]) -> dict[str, Any]:
    """Of one baseline: questions answered in full, parts of answers, totals of both, and means per question."""
    questions = answers["questions"]
    return {
        "full": sum(question["held"] == len(question["answers"]) for question in questions),
        "parts": sum(question["held"] for question in questions),
        "of": [len(questions), sum(len(question["answers"]) for question in questions)],
        "setup_seconds": round(answers["setup_seconds"], 1),
        "seconds": sum(question["seconds"] for question in questions) / len(questions),
        "tokens": sum(question["tokens"] for question in questions) / len(questions),
        "retention": _summarize_retention(answers.get("retention", [])),
    }
