"""Tables and sentences of a passage report: which facts the model learned, and how the baselines compare.

Each form of the report (Markdown, HTML, terminal) shows these sections. The record of a stopped run has fewer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .format import format_duration, format_size

Record = Mapping[str, Any]

# One sign per fact: correct by teacher forcing and in free generation, by one of them, by neither, not written yet.
BOTH, HALF, LOST, NOT_YET = "●", "◐", "○", "·"
_BAR = 10
_KINDS = {
    "people": "other people", "things": "other things", "same_last_name": "people with the same last name",
}  # fmt: skip

_PROOF_PROTOCOL = (
    "Proof: first token and whole object are first choices under teacher forcing. In free generation ({max_new_tokens} "
    "new tokens, greedy) the completion starts with the object as whole words. KL is that of after from before, over "
    "{prompts} other prompts. Perplexity is exp(mean NLL) of {text_tokens} tokens of {texts} texts. Leakage is "
    "measured on {unrelated_prompts} prompts of unrelated subjects: the whole object is newly the first choice."
)
_CONTEXTS = {
    "none": "the question alone",
    "passage": "the whole passage before the question",
    "chunks": "the {chunks} best chunks before the question, best first: {chunk_sentences} sentences each, stride "
    "{stride}, the title in front, ranked by BM25",
}


@dataclass(frozen=True)
class Table:
    """Cells of plain text. The columns named in `long` hold sentences, which are folded on narrow screens."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    long: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading with sentences and a table; `picture` names the figure of the same data."""

    title: str
    table: Table | None = None
    text: tuple[str, ...] = ()
    picture: str = ""


def heading(record: Record) -> str:
    """The title of the report."""
    return f"{record['title']} in {record['model']}"


def sections(record: Record) -> list[Section]:
    """The sections for all data that the record holds."""
    facts, answers = facts_of(record), record.get("answers") or []
    proof = record.get("proof") or {}
    result = [Section("Revisions", text=(f"From {record.get('base')} to {record.get('revision')}.",))]
    if facts:
        result += [_counts_section(facts), _facts_section(facts)]
        if any(fact["held_out"] for fact in facts):
            result.append(_paraphrases_section(facts))
    if proof.get("retention"):
        result.append(_retention_section(proof["retention"], len(facts)))
    if proof.get("drift"):
        result.append(_side_effects_section(proof["drift"]))
    if answers:
        result += [_baselines_section(answers), _questions_section(answers)]
    if record.get("stages"):
        result.append(_costs_section(record["stages"]))
    if protocols := _protocols(proof.get("protocol"), answers):
        result.append(Section("Protocol", text=protocols))
    return result


def _protocols(proof: Record | None, answers: Sequence[Record]) -> tuple[str, ...]:
    """The protocol of the proof, of each baseline's context, and of all answers."""
    # Protocols of earlier versions are sentences; they are not shown.
    sentences = [_PROOF_PROTOCOL.format_map(proof)] if isinstance(proof, Mapping) else []
    protocols = [
        (one["baseline"], one["protocol"]) for one in answers if isinstance(one.get("protocol"), Mapping)
    ]
    sentences += [f"{name}: {_describe_context(protocol)}." for name, protocol in protocols]
    return (*sentences, *(_describe_answers(protocol) for _, protocol in protocols[:1]))


def _describe_context(protocol: Record) -> str:
    template = _CONTEXTS.get(protocol["context"])
    text = template.format_map(protocol) if template else str(protocol["context"])
    return f"{text}, reranked by the likelihood of the question" if protocol.get("reranked") else text


def _describe_answers(protocol: Record) -> str:
    has_turns = protocol["chat_template"]
    form = "a user turn of the chat template" if has_turns else "a prompt 'Question: ... Answer:'"
    end = "turn" if has_turns else "line"
    return (
        f"All baselines: {form}; greedy, to the end of the {end} or {protocol['max_new_tokens']} tokens. The reply "
        "must contain a part as whole words. Each question is timed alone, after a warm-up."
    )


def facts_of(record: Record) -> list[dict[str, Any]]:
    """The facts of the proof; empty before the proof exists."""
    return list((record.get("proof") or {}).get("facts") or [])


def count_full_answers(baseline: Record) -> tuple[int, int]:
    """(number of questions answered with every part, number of questions)."""
    questions = baseline["questions"]
    return sum(one["held"] == len(one["answers"]) for one in questions), len(questions)


def mean_answer_share(baseline: Record) -> float:
    """Mean over the questions of the share of the answer's parts that the reply contains."""
    questions = baseline["questions"]
    return fmean(one["held"] / len(one["answers"]) for one in questions) if questions else 0.0


def fact_sign(entry: Record, fact: int) -> str:
    """The sign of a fact after an edit."""
    for one in entry.get("facts") or ():
        if one["fact"] == fact:
            return (LOST, HALF, BOTH)[one["first_choice"] + one["free"]]
    return NOT_YET


def _counts_section(facts: Sequence[Record]) -> Section:
    after = [fact["after"] for fact in facts]
    before = [fact["before"] for fact in facts if fact.get("before")]
    paraphrases = [one for fact in facts for one in fact["held_out"]]
    paraphrases_before = [one for fact in facts for one in fact.get("held_out_before") or ()]
    rows = []
    for prompts, old, new in (
        ("prompts of the facts", before, after), ("evaluation paraphrases", paraphrases_before, paraphrases)
    ):  # fmt: skip
        if new:
            for name, meaning in (
                ("first_token", "first token correct"),
                ("first_choice", "whole object, teacher-forced"),
                ("free", "free generation starts with it"),
            ):
                rows.append((prompts, meaning, _count(old, name), _count(new, name)))
    if mean_of(facts, "judge") is not None:
        rows.append(("prompts of the facts", "judge, 0 to 3", "-", _format_mean(facts, "judge", ".2f")))
    return Section("Learned facts", Table(("prompts", "measure", "before", "after"), rows))


def _facts_section(facts: Sequence[Record]) -> Section:
    has_grades = any(fact.get("judge") is not None for fact in facts)
    columns = ("#", "prompt", "object", "first", "whole", "free", "paraphrases", *_optional(has_grades, "judge"),
               "completion")  # fmt: skip
    rows = []
    for number, fact in enumerate(facts, start=1):
        after, paraphrases = fact["after"], fact["held_out"]
        rows.append(
            (str(number), fact["prompt"], fact["object"], _sign(after["first_token"]), _sign(after["first_choice"]),
             _sign(after["free"]), _count(paraphrases, "first_choice"),
             *_optional(has_grades, _number(fact.get("judge"))), after["completion"].strip())
        )  # fmt: skip
    return Section("Facts", Table(columns, rows, ("prompt", "object", "completion")))


def _paraphrases_section(facts: Sequence[Record]) -> Section:
    rows = [
        (str(number), one["prompt"], _sign(one["first_token"]), _sign(one["first_choice"]), _sign(one["free"]),
         one["completion"].strip())
        for number, fact in enumerate(facts, start=1)
        for one in fact["held_out"]
    ]  # fmt: skip
    columns = ("#", "prompt", "first", "whole", "free", "completion")
    table = Table(columns, rows, ("prompt", "completion"))
    return Section("Evaluation paraphrases", table, ("Training never uses these prompts.",), "paraphrases")


def _retention_section(entries: Sequence[Record], facts: int) -> Section:
    columns: tuple[str, ...] = ("after edit", "requests", "whole", "free")
    has_facts = any(entry.get("facts") for entry in entries)
    if has_facts:
        columns += ("each fact, in order",)
    rows = []
    for entry in entries:
        row = (entry["edit"], str(entry["requests"]), str(entry["first_choice"]), str(entry["free"]))
        signs = "".join(fact_sign(entry, fact) for fact in range(facts))
        rows.append((*row, signs) if has_facts else row)
    legend = (
        f"{BOTH} correct by teacher forcing and in free generation, {HALF} by one of them, {LOST} by neither, "
        f"{NOT_YET} not written yet."
    )
    picture = "retention" if has_facts else ""
    return Section("Retention", Table(columns, rows), (legend,) if has_facts else (), picture)


def _side_effects_section(drift: Record) -> Section:
    before, after = drift["perplexity_before"], drift["perplexity_after"]
    rows = [
        (f"{_percent(drift['preserved'])} of {drift['prompts']}", "other prompts with an unchanged first choice"),
        (f"{drift['kl']:.4f} nats", "KL divergence on the same prompts"),
        (f"{after:.2f}, {_change(after, before)}", f"perplexity of other text, {before:.2f} before"),
        (_percent(drift["leakage_rate"]), "leakage: prompts of unrelated subjects whose completion is now the object"),
    ]  # fmt: skip
    for one in drift.get("leakage") or ():
        kind = _KINDS.get(one["kind"], one["kind"])
        meaning = f"leakage to {kind}; first token of the object: {one['first_token']}"
        rows.append((f"{one['whole']} of {one['pairs']}", meaning))
    return Section("Side effects", Table(("value", "measure"), rows, ("measure",)))


def _baselines_section(answers: Sequence[Record]) -> Section:
    has_grades = any(one.get("judge") is not None for baseline in answers for one in baseline["questions"])
    grade = _optional(has_grades, "judge")
    columns = ("baseline", "", "parts", "in full", *grade, "setup", "s", "tokens", "memory")
    rows = []
    for baseline in answers:
        questions = baseline["questions"]
        full, count = count_full_answers(baseline)
        share = mean_answer_share(baseline)
        rows.append(
            (baseline["baseline"], share_bar(share), _percent(share), f"{full} of {count}",
             *_optional(has_grades, _format_mean(questions, "judge", ".2f")),
             format_seconds(baseline.get("setup_seconds")), _format_mean(questions, "seconds", ".2f"),
             _format_mean(questions, "tokens", ".0f"), _memory(baseline.get("memory")))
        )  # fmt: skip
    legend = (
        "parts: mean share of the answer's parts that the reply contains; in full: questions with every part; "
        "setup: time before the first question; s and tokens (input and output): means per question."
    )
    return Section("Baselines", Table(columns, rows), (legend,), "baselines")


def _questions_section(answers: Sequence[Record]) -> Section:
    rows = []
    for number, question in enumerate(answers[0]["questions"]):
        label = f"{question['question']} ({'; '.join(question['answers'])})"
        for baseline in answers:
            if number < len(baseline["questions"]):
                one = baseline["questions"][number]
                held = f"{one['held']}/{len(one['answers'])}"
                limit = "" if one.get("ended", True) else " … (token limit)"
                rows.append((label, baseline["baseline"], held, f"{one['said']}{limit}"))
                label = ""
    columns = ("question (parts of a full answer)", "baseline", "parts", "reply")
    return Section("Questions", Table(columns, rows, (columns[0], "reply")))


def _costs_section(stages: Sequence[Record]) -> Section:
    rows = [
        (one["name"], format_seconds(one.get("seconds")), _number(one.get("tokens")), _memory(one.get("memory")))
        for one in stages
    ]  # fmt: skip
    return Section("Costs", Table(("stage", "time", "tokens", "memory"), rows))


def share_bar(share: float) -> str:
    """A share from 0 to 1 as ten cells."""
    full = max(0, min(_BAR, round(share * _BAR)))
    return "█" * full + "·" * (_BAR - full)


def format_seconds(value: float | None) -> str:
    """`0.52 s`, `43 s` or `4:05`; - if unknown."""
    if value is None:
        return "-"
    if value >= 100:
        return format_duration(value)
    if 0 < value < 0.01:
        return "under 0.01 s"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def _count(rows: Sequence[Record], name: str) -> str:
    """`1 of 2`: true values among the rows that have this measure."""
    values = [row[name] for row in rows if name in row]
    return f"{sum(values)} of {len(values)}" if values else "-"


def mean_of(rows: Iterable[Record], name: str) -> float | None:
    """The mean of a field over the rows that have it; None if there are none."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return fmean(values) if values else None


def _format_mean(rows: Iterable[Record], name: str, form: str) -> str:
    mean = mean_of(rows, name)
    return "-" if mean is None else format(mean, form)


def _optional(is_shown: bool, cell: str) -> tuple[str, ...]:
    return (cell,) if is_shown else ()


def _sign(value: bool) -> str:
    return "✓" if value else "·"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _memory(value: float | None) -> str:
    return "-" if value is None else format_size(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _change(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %"
