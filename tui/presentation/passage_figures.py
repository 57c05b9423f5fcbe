"""Figures of a passage report: facts by edits, the baselines compared, facts by evaluation paraphrases."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .figures import escape_label, new_figure
from .passage_summary import (
    BOTH,
    HALF,
    LOST,
    Record,
    count_full_answers,
    fact_sign,
    facts_of,
    mean_answer_share,
    mean_of,
)
from .text import cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinct for color-blind readers (Wong 2011); the signs distinguish them in print.
_COLORS = {BOTH: "#0072B2", HALF: "#F0E442", LOST: "#D55E00"}
_RETENTION_LEGEND = {BOTH: "teacher forcing and free generation", HALF: "one of them", LOST: "neither"}
_PARAPHRASE_LEGEND = {BOTH: "whole object", HALF: "its first token", LOST: "neither"}
_LABEL_WIDTH = 46


def draw(record: Record, picture: str) -> "Figure":
    """The figure with the name `picture` (see `Section.picture`)."""
    return {"retention": draw_retention, "baselines": draw_baselines, "paraphrases": draw_paraphrases}[
        picture
    ](record)


def draw_retention(record: Record) -> "Figure":
    """Facts down, edits across: is each fact still correct after each edit?"""
    entries = record["proof"]["retention"]
    facts = facts_of(record)
    rows = [[fact_sign(entry, fact) for entry in entries] for fact in range(len(facts))]
    figure, axes = _cells(rows, _fact_labels(facts), _RETENTION_LEGEND)
    axes.set_xticks(
        [0.5 + at for at in range(len(entries))], [escape_label(cut(entry["edit"], 10)) for entry in entries],
        rotation=90 if len(entries) > 6 else 0, fontsize=7,
    )  # fmt: skip
    axes.set_xlabel("after the edit", fontsize=8)
    figure.suptitle("Retention of each fact", fontsize=9)
    return figure


def draw_paraphrases(record: Record) -> "Figure":
    """Facts down, their evaluation paraphrases across."""
    facts = facts_of(record)
    width = max(len(fact["held_out"]) for fact in facts)
    rows = []
    for fact in facts:
        signs = [(LOST, HALF, BOTH)[one["first_token"] + one["first_choice"]] for one in fact["held_out"]]
        rows.append(signs + [" "] * (width - len(signs)))
    figure, axes = _cells(rows, _fact_labels(facts), _PARAPHRASE_LEGEND)
    axes.set_xticks([0.5 + at for at in range(width)], [str(at + 1) for at in range(width)], fontsize=7)
    axes.set_xlabel("evaluation paraphrase, by teacher forcing", fontsize=8)
    figure.suptitle("Facts in prompts that training never uses", fontsize=9)
    return figure


def draw_baselines(record: Record) -> "Figure":
    """Per baseline: share of the answers' parts, and seconds and tokens per question."""
    answers = record["answers"]
    figure = new_figure((8.0, 1.3 + 0.32 * len(answers)))
    names = [escape_label(cut(one["baseline"], 24)) for one in answers]
    full = [f"{done} of {count} in full" for done, count in map(count_full_answers, answers)]
    shares = [mean_answer_share(one) for one in answers]
    _bars(figure.add_subplot(1, 3, 1), names, shares, "parts of the answers", "#0072B2", full)
    for position, (field, title, color) in enumerate(
        (("seconds", "seconds per question", "#D55E00"), ("tokens", "tokens per question", "#009E73")),
        start=2,
    ):
        means = [mean_of(one["questions"], field) or 0.0 for one in answers]
        values = [f"{mean:.3g}" for mean in means]
        _bars(figure.add_subplot(1, 3, position), [""] * len(names), means, title, color, values)
    return figure


def _bars(
    axes: Any, names: Sequence[str], values: Sequence[float], title: str, color: str, labels: Sequence[str]
) -> None:
    positions = range(len(values))
    bars = axes.barh(positions, values, color=color, height=0.6)
    axes.bar_label(bars, labels, fontsize=6, padding=2)
    axes.set_yticks(list(positions), names, fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=6)
    # Leaves room for the label of the longest bar.
    axes.set_xlim(0, max([*values, 1e-9]) * 1.6)
    axes.set_title(title, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _cells(
    rows: Sequence[Sequence[str]], names: Sequence[str], meanings: Mapping[str, str]
) -> tuple["Figure", Any]:
    """A grid of signs on colors, with a legend below."""
    from matplotlib.patches import Patch, Rectangle

    columns = max(map(len, rows), default=0)
    figure = new_figure((4.6 + 0.3 * columns, 1.4 + 0.22 * len(rows)))
    axes = figure.add_subplot()
    for down, row in enumerate(rows):
        for across, sign in enumerate(row):
            if sign in _COLORS:
                axes.add_patch(Rectangle((across, down), 1, 1, facecolor=_COLORS[sign], edgecolor="white"))
                axes.text(across + 0.5, down + 0.5, sign, ha="center", va="center", fontsize=6,
                          color="black" if sign == HALF else "white")  # fmt: skip
    axes.set_xlim(0, max(1, columns))
    axes.set_ylim(len(rows), 0)
    axes.set_yticks([0.5 + at for at in range(len(rows))], [escape_label(name) for name in names], fontsize=6)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    legend = [Patch(facecolor=color, label=meanings[sign]) for sign, color in _COLORS.items()]
    figure.legend(handles=legend, fontsize=6, frameon=False, loc="outside lower center", ncols=3)
    return figure, axes


def _fact_labels(facts: Sequence[Record]) -> list[str]:
    return [f"{cut(fact['prompt'], _LABEL_WIDTH)} | {cut(fact['object'], _LABEL_WIDTH)}" for fact in facts]
