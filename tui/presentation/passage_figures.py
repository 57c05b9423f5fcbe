"""The pictures of a passage run: facts by edits, the ways against each other, facts by held-out wordings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .drawing import blank, label
from .passage_summary import BOTH, HALF, LOST, Record, answered, facts_of, share_held, standing
from .text import cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by the color-blind (Wong 2011), and by their signs in print.
_COLORS = {BOTH: "#0072B2", HALF: "#F0E442", LOST: "#D55E00"}
_HOLDS = {BOTH: "whole and in free generation", HALF: "one of them", LOST: "neither"}
_COMES = {BOTH: "whole object", HALF: "its first token", LOST: "not even that"}
_SHORT = 46


def draw(record: Record, picture: str) -> "Figure":
    """The picture that a section names."""
    return {"retention": draw_retention, "ways": draw_ways, "wordings": draw_wordings}[picture](record)


def draw_retention(record: Record) -> "Figure":
    """Facts down, edits across: does each fact hold after each edit?"""
    entries = record["proof"]["retention"]
    facts = facts_of(record)
    rows = [[standing(entry, fact) for entry in entries] for fact in range(len(facts))]
    figure, axes = _cells(rows, _names(facts), _HOLDS)
    axes.set_xticks(
        [0.5 + at for at in range(len(entries))], [label(cut(entry["edit"], 10)) for entry in entries],
        rotation=90 if len(entries) > 6 else 0, fontsize=7,
    )  # fmt: skip
    axes.set_xlabel("after the edit", fontsize=8)
    figure.suptitle("Does each fact still hold?", fontsize=9)
    return figure


def draw_wordings(record: Record) -> "Figure":
    """Facts down, their held-out wordings across."""
    facts = facts_of(record)
    width = max(len(fact["held_out"]) for fact in facts)
    rows = []
    for fact in facts:
        signs = [(LOST, HALF, BOTH)[one["first_token"] + one["first_choice"]] for one in fact["held_out"]]
        rows.append(signs + [" "] * (width - len(signs)))
    figure, axes = _cells(rows, _names(facts), _COMES)
    axes.set_xticks([0.5 + at for at in range(width)], [str(at + 1) for at in range(width)], fontsize=7)
    axes.set_xlabel("held-out wording, by teacher forcing", fontsize=8)
    figure.suptitle("Does each fact come in words that were never trained on?", fontsize=9)
    return figure


def draw_ways(record: Record) -> "Figure":
    """Share of parts held by each way, beside the seconds and the tokens of a question."""
    answers = record["answers"]
    figure = blank((8.0, 1.3 + 0.32 * len(answers)))
    names = [label(cut(way["way"], 24)) for way in answers]
    full = [f"{done} of {count} in full" for done, count in map(answered, answers)]
    _bars(
        figure.add_subplot(1, 3, 1),
        names,
        [share_held(way) for way in answers],
        "parts held",
        "#0072B2",
        full,
    )
    for place, (field, title, color) in enumerate(
        (("seconds", "seconds per question", "#D55E00"), ("tokens", "tokens per question", "#009E73")),
        start=2,
    ):
        means = [_mean(way["questions"], field) for way in answers]
        told = [f"{mean:.3g}" for mean in means]
        _bars(figure.add_subplot(1, 3, place), [""] * len(names), means, title, color, told)
    return figure


def _bars(
    axes: Any, names: Sequence[str], values: Sequence[float], title: str, color: str, told: Sequence[str]
) -> None:
    places = range(len(values))
    bars = axes.barh(places, values, color=color, height=0.6)
    axes.bar_label(bars, told, fontsize=6, padding=2)
    axes.set_yticks(list(places), names, fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=6)
    # Room for what stands beside the longest bar.
    axes.set_xlim(0, max([*values, 1e-9]) * 1.6)
    axes.set_title(title, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _cells(
    rows: Sequence[Sequence[str]], names: Sequence[str], meanings: Mapping[str, str]
) -> tuple["Figure", Any]:
    """A grid of signs, each on its color; a legend under it."""
    from matplotlib.patches import Patch, Rectangle

    columns = max(map(len, rows), default=0)
    figure = blank((4.6 + 0.3 * columns, 1.4 + 0.22 * len(rows)))
    axes = figure.add_subplot()
    for down, row in enumerate(rows):
        for across, sign in enumerate(row):
            if sign in _COLORS:
                axes.add_patch(Rectangle((across, down), 1, 1, facecolor=_COLORS[sign], edgecolor="white"))
                axes.text(across + 0.5, down + 0.5, sign, ha="center", va="center", fontsize=6,
                          color="black" if sign == HALF else "white")  # fmt: skip
    axes.set_xlim(0, max(1, columns))
    axes.set_ylim(len(rows), 0)
    axes.set_yticks([0.5 + at for at in range(len(rows))], [label(name) for name in names], fontsize=6)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    legend = [Patch(facecolor=color, label=meanings[sign]) for sign, color in _COLORS.items()]
    figure.legend(handles=legend, fontsize=6, frameon=False, loc="outside lower center", ncols=3)
    return figure, axes


def _names(facts: Sequence[Record]) -> list[str]:
    return [f"{cut(fact['prompt'], _SHORT)} | {cut(fact['object'], _SHORT)}" for fact in facts]


def _mean(rows: Sequence[Record], name: str) -> float:
    known = [row[name] for row in rows if row.get(name) is not None]
    return sum(known) / len(known) if known else 0.0
