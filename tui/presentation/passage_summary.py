"""The record of a passage run read for people: how many facts stuck, how the ways compare, in tables of plain text.

Every report (Markdown, HTML, the terminal) shows these sections; a record that lacks a part, since the run was stopped
before it, has fewer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .format import format_duration, format_size

Record = Mapping[str, Any]

YES, NO = "✓", "·"
# One sign a fact: whole by teacher forcing and in free generation, by one of them, by neither, not written yet.
BOTH, HALF, LOST, NOT_YET = "●", "◐", "○", "·"
_BAR = 10
_KINDS = {
    "persons": "other people",
    "others": "other things",
    "namesakes": "people with the subject's last word",
}


@dataclass(frozen=True)
class Table:
    """Cells of plain text; the columns named in `long` hold sentences, which are folded where there is little room."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    long: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `picture` names the one that shows the same."""

    title: str
    table: Table | None = None
    text: tuple[str, ...] = ()
    picture: str = ""


def heading(record: Record) -> str:
    return f"{record['title']} in {record['model']}"


def sections(record: Record) -> list[Section]:
    """All that the record holds, in the order in which it is asked for."""
    facts, answers = facts_of(record), record.get("answers") or []
    proof = record.get("proof") or {}
    found = [Section("Revisions", text=(f"From {record.get('base')} to {record.get('revision')}.",))]
    if facts:
        found += [_stuck(facts), _facts(facts)]
        if any(fact["held_out"] for fact in facts):
            found.append(_wordings(facts))
    if proof.get("retention"):
        found.append(_retention(proof["retention"], len(facts)))
    if proof.get("drift"):
        found.append(_elsewhere(proof["drift"]))
    if answers:
        found += [_ways(answers), _questions(answers)]
    if record.get("stages"):
        found.append(_costs(record["stages"]))
    if told := _protocols(proof.get("protocol"), answers):
        found.append(Section("How it was measured", text=told))
    return found


def _protocols(proof: str | None, answers: Sequence[Record]) -> tuple[str, ...]:
    """What is the same of every way is told once."""
    told = [f"Proof: {proof}."] if proof else []
    ways = [(one["way"], *one["protocol"].partition("; ")[::2]) for one in answers if one.get("protocol")]
    alike = len({rest for *_, rest in ways}) == 1
    told += [f"{name}: {rule}{'' if alike or not rest else f'; {rest}'}." for name, rule, rest in ways]
    return (*told, *(f"Every way: {rest}." for _, _, rest in ways[:1] if alike and rest))


def facts_of(record: Record) -> list[dict[str, Any]]:
    """The facts of the proof; none before there is one."""
    return list((record.get("proof") or {}).get("facts") or [])


def answered(way: Record) -> tuple[int, int]:
    """(questions of which every part is held, questions)."""
    questions = way["questions"]
    return sum(one["held"] == len(one["answers"]) for one in questions), len(questions)


def share_held(way: Record) -> float:
    """Mean over the questions of the share of their parts that is held."""
    return fmean(one["held"] / len(one["answers"]) for one in way["questions"]) if way["questions"] else 0.0


def standing(entry: Record, fact: int) -> str:
    """The sign of a fact after an edit."""
    for one in entry.get("facts") or ():
        if one["fact"] == fact:
            return (LOST, HALF, BOTH)[one["first_choice"] + one["free"]]
    return NOT_YET


def _stuck(facts: Sequence[Record]) -> Section:
    after = [fact["after"] for fact in facts]
    before = [fact["before"] for fact in facts if fact.get("before")]
    wordings = [one for fact in facts for one in fact["held_out"]]
    wordings_before = [one for fact in facts for one in fact.get("held_out_before") or ()]
    rows = []
    for whose, then, now in (
        ("facts, their own prompt", before, after), ("held-out wordings", wordings_before, wordings)
    ):  # fmt: skip
        if now:
            for name, meaning in (
                ("first_token", "first token right"),
                ("first_choice", "whole object, teacher-forced"),
                ("free", "free generation begins with it"),
            ):
                rows.append((whose, meaning, _of(then, name), _of(now, name)))
    judged = [fact["judge"] for fact in facts if fact.get("judge") is not None]
    if judged:
        rows.append(("facts, their own prompt", "judge, 0 to 3", "-", f"{fmean(judged):.2f}"))
    return Section("What stuck", Table(("asked", "counted", "before", "after"), rows))


def _facts(facts: Sequence[Record]) -> Section:
    judged = any(fact.get("judge") is not None for fact in facts)
    columns = (
        "#",
        "prompt",
        "object",
        "first",
        "whole",
        "free",
        "wordings",
        *_if(judged, "judge"),
        "goes on with",
    )
    rows = []
    for number, fact in enumerate(facts, start=1):
        after, wordings = fact["after"], fact["held_out"]
        rows.append(
            (str(number), fact["prompt"], fact["object"], _sign(after["first_token"]), _sign(after["first_choice"]),
             _sign(after["free"]), _of(wordings, "first_choice"), *_if(judged, _number(fact.get("judge"))),
             after["completion"].strip())
        )  # fmt: skip
    return Section("Facts", Table(columns, rows, ("prompt", "object", "goes on with")))


def _wordings(facts: Sequence[Record]) -> Section:
    rows = [
        (str(number), one["prompt"], _sign(one["first_token"]), _sign(one["first_choice"]), _sign(one["free"]),
         one["completion"].strip())
        for number, fact in enumerate(facts, start=1)
        for one in fact["held_out"]
    ]  # fmt: skip
    columns = ("#", "prompt", "first", "whole", "free", "goes on with")
    table = Table(columns, rows, ("prompt", "goes on with"))
    return Section("Held-out wordings", table, ("These were never trained on.",), "wordings")


def _retention(entries: Sequence[Record], facts: int) -> Section:
    columns: tuple[str, ...] = ("after edit", "asked", "whole", "free")
    each = any(entry.get("facts") for entry in entries)
    if each:
        columns += ("facts from the first to the last",)
    rows = []
    for entry in entries:
        row = (entry["edit"], str(entry["requests"]), str(entry["first_choice"]), str(entry["free"]))
        signs = "".join(standing(entry, fact) for fact in range(facts))
        rows.append((*row, signs) if each else row)
    legend = (
        f"{BOTH} whole by teacher forcing and in free generation, {HALF} by one of them, {LOST} by neither, "
        f"{NOT_YET} not written yet."
    )
    return Section("Retention", Table(columns, rows), (legend,) if each else (), "retention" if each else "")


def _elsewhere(drift: Record) -> Section:
    before, after = drift["perplexity_before"], drift["perplexity_after"]
    rows = [
        (f"{_percent(drift['kept'])} of {drift['prompts']}", "other prompts whose first choice is kept"),
        (f"{drift['kl']:.4f} nats", "KL from before, on the same prompts"),
        (f"{after:.2f}, {_change(after, before)}", f"perplexity of other text, {before:.2f} before"),
        (_percent(drift["bleed"]), "bleed: prompts with another's name that now go on with the object"),
    ]
    for one in drift.get("bleeds") or ():
        kind = _KINDS.get(one["kind"], one["kind"])
        told = f"that with the names of {kind}; the object's first token: {one['first_token']}"
        rows.append((f"{one['whole']} of {one['pairs']}", told))
    return Section("What else has changed", Table(("value", "measured"), rows, ("measured",)))


def _ways(answers: Sequence[Record]) -> Section:
    judged = any(one.get("judge") is not None for way in answers for one in way["questions"])
    columns = ("way", "", "parts", "in full", *_if(judged, "judge"), "take in", "s", "tokens", "memory")
    rows = []
    for way in answers:
        questions = way["questions"]
        full, count = answered(way)
        grades = [one["judge"] for one in questions if one.get("judge") is not None]
        rows.append(
            (way["way"], bar(share_held(way)), _percent(share_held(way)), f"{full} of {count}",
             *_if(judged, f"{fmean(grades):.2f}" if grades else "-"), seconds(way.get("take_in_seconds")),
             _mean(questions, "seconds", "{:.2f}"), _mean(questions, "tokens", "{:.0f}"), _memory(way.get("memory")))
        )  # fmt: skip
    told = (
        "Parts: mean share of the answer's parts that are held; in full: questions with every part; seconds and "
        "tokens, in and out, are means per question."
    )
    return Section("The ways against each other", Table(columns, rows), (told,), "ways")


def _questions(answers: Sequence[Record]) -> Section:
    rows = []
    for number, question in enumerate(answers[0]["questions"]):
        told = f"{question['question']} ({'; '.join(question['answers'])})"
        for way in answers:
            if number < len(way["questions"]):
                one = way["questions"][number]
                held = f"{one['held']}/{len(one['answers'])}"
                cut = "" if one.get("ended", True) else " … (at the limit)"
                rows.append((told, way["way"], held, f"{one['said']}{cut}"))
                told = ""
    columns = ("question (what a full answer holds)", "way", "held", "said")
    return Section("Questions", Table(columns, rows, (columns[0], "said")))


def _costs(stages: Sequence[Record]) -> Section:
    rows = [
        (one["name"], seconds(one.get("seconds")), _number(one.get("tokens")), _memory(one.get("memory")))
        for one in stages
    ]
    return Section("Costs", Table(("stage", "time", "tokens", "memory"), rows))


def bar(share: float) -> str:
    """A share of 1 as ten cells."""
    full = max(0, min(_BAR, round(share * _BAR)))
    return "█" * full + "·" * (_BAR - full)


def seconds(value: float | None) -> str:
    """`0.52 s`, `43 s` or `4:05`."""
    if value is None:
        return "-"
    if value >= 100:
        return format_duration(value)
    if 0 < value < 0.01:
        return "under 0.01 s"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def _of(rows: Sequence[Record], name: str) -> str:
    """How many of those of which it is known."""
    known = [row[name] for row in rows if name in row]
    return f"{sum(known)} of {len(known)}" if known else "-"


def _mean(rows: Iterable[Record], name: str, form: str) -> str:
    known = [row[name] for row in rows if row.get(name) is not None]
    return form.format(fmean(known)) if known else "-"


def _if(wanted: bool, cell: str) -> tuple[str, ...]:
    return (cell,) if wanted else ()


def _sign(value: bool) -> str:
    return YES if value else NO


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _memory(value: float | None) -> str:
    return "-" if value is None else format_size(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _change(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"
