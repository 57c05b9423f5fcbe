"""Passages put into the starter model: what sticks, in trained and in held-out words, and what it costs elsewhere.

    FACTS=known_facts.json PANDEY=passage_pandey.json make bench BENCH=passage

The seed's passage (its facts from PANDEY, its wordings from passages/pandey.json) and two of our own, each by
`retcon passage run` on the unedited model, with the ways named in AGAINST; the seed's also in five edits. Eighty
prompts of FACTS that the model answers tell how much else has changed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from retcon.passage_facts import PassageFact, PassageQuestion
from retcon.store.facts.passage_format import Passage, format_passage

from .facts import KNOWN_FACTS

HERE = Path(__file__).parent / "passages"
PANDEY = Path(os.environ.get("PANDEY", KNOWN_FACTS.with_name("passage_pandey.json")))
AGAINST = os.environ.get("AGAINST", "prompt,retrieval,lora,rome")
_KNOWN = 80
RETCON = Path(sys.executable).with_name("retcon")


def run() -> dict[str, Any]:
    """The figures of each passage."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.prepare()
        found = {}
        for name, facts in passages(Path(folder)).items():
            found[name] = figures(home.json("passage", "run", "starter@base", facts, *home.usual))
        for edits in (5,):
            facts = Path(folder) / "pandey.facts"
            record = home.json(
                "passage", "run", "starter@base", facts, *home.usual[:2], "--against", "", "--edits", edits
            )
            found[f"pandey in {edits} edits"] = figures(record)
        return {"passage": found}


class Home:
    """A home with the starter model and the prompts that shall stay."""

    usual: tuple[object, ...] = ("--known", "known", "--against", AGAINST)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"RETCON_HOME": str(folder / "home")}

    def prepare(self) -> None:
        self("model", "add", "starter")
        known = [record for record in json.loads(KNOWN_FACTS.read_text()) if record["prompt"].isascii()]
        (self.folder / "all.json").write_text(json.dumps(known))
        self("facts", "import", self.folder / "all.json", "--name", "all")
        scored = self.json("eval", "run", "starter", "--facts", "all", "--suite", "quick")
        good = [
            record for record, case in zip(known, scored["cases"], strict=True) if case["new"]["first_choice"]
        ]
        step = len(good) // _KNOWN
        (self.folder / "known.json").write_text(json.dumps(good[::step][:_KNOWN]))
        self("facts", "import", self.folder / "known.json", "--name", "known")

    def __call__(self, *words: object) -> str:
        command = [str(RETCON), *map(str, words)]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def json(self, *words: object) -> Any:
        return json.loads(self(*words, "--json"))


def passages(folder: Path) -> dict[str, Path]:
    """The files of the three passages."""
    made = folder / "pandey.facts"
    made.write_text(format_passage(pandey()))
    return {"pandey": made, "lindqvist": HERE / "lindqvist.facts", "kelmora": HERE / "kelmora.facts"}


def pandey() -> Passage:
    """The seed's passage: its facts and questions, our wordings; the text is its facts in a row."""
    seed, ours = json.loads(PANDEY.read_text()), json.loads((HERE / "pandey.json").read_text())
    facts = tuple(
        PassageFact(one["subject"], f"{{}} {one['relation']}", object, tuple(wordings), tuple(held_out))
        for one, object, wordings, held_out in zip(
            seed["facts"], ours["objects"], ours["wordings"], ours["held_out"], strict=True
        )
    )
    facts += tuple(
        PassageFact(facts[0].subject, one["prompt"], one["object"], tuple(one["wordings"]))
        for one in ours["lists"]
    )
    questions = tuple(
        PassageQuestion(one["question"], tuple(answers))
        for one, answers in zip(seed["questions"], ours["answers"], strict=True)
    )
    text = " ".join(f"{one['subject']} {one['relation']} {one['object']}." for one in seed["facts"])
    return Passage(seed["title"], text, facts, questions)


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """What a run is judged by."""
    facts, drift = record["proof"]["facts"], record["proof"]["drift"]
    held_out = [one for fact in facts for one in fact["held_out"]]
    ways = {way["baseline"]: way for way in record["answers"]}

    def count(rows: list[dict[str, Any]], name: str) -> int:
        return sum(row[name] for row in rows)

    after = [fact["after"] for fact in facts]
    return {
        "facts": len(facts),
        "teacher_forced": count(after, "first_choice"),
        "free": count(after, "free"),
        "held_out": len(held_out),
        "held_out_first_token": count(held_out, "first_token"),
        "held_out_whole": count(held_out, "first_choice"),
        "held_out_free": count(held_out, "free"),
        "kept": drift["preserved"],
        "kl": drift["kl"],
        "perplexity": drift["perplexity_after"] / drift["perplexity_before"] - 1,
        "bleed": drift["leakage_rate"],
        "retention": [
            [row["first_choice"], row["free"], row["requests"]] for row in record["proof"]["retention"]
        ],
        "answered": {name: _answered(way) for name, way in ways.items()},
        "seconds": {stage["name"]: round(stage["seconds"], 1) for stage in record["stages"]},
    }


def _answered(way: dict[str, Any]) -> dict[str, Any]:
    asked = way["questions"]
    return {
        "full": sum(one["held"] == len(one["answers"]) for one in asked),
        "parts": sum(one["held"] for one in asked),
        "of": [len(asked), sum(len(one["answers"]) for one in asked)],
        "take_in_seconds": round(way["setup_seconds"], 1),
        "seconds": sum(one["seconds"] for one in asked) / len(asked),
        "tokens": sum(one["tokens"] for one in asked) / len(asked),
        "retention": [
            [row["first_choice"], row["free"], row["requests"]] for row in way.get("retention", [])
        ],
    }
