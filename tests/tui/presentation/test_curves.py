"""Curves as text: positions, distinction without color, and size."""

import pytest
from rich.cells import cell_len

from retcon.tui.presentation.curves import MARKS, Curve, render_lines

KINDS = tuple(MARKS)


def curve(kind: str, means: list[float | None], half: float | None = None) -> Curve:
    bands = tuple(None if mean is None or half is None else (mean - half, mean + half) for mean in means)
    return Curve(kind, tuple(means), bands)


def draw(*curves: Curve, width: int = 40, height: int = 11, cursor: int | None = None) -> list[str]:
    lines = render_lines(curves, title="AIE", width=width, height=height, color=False, cursor=cursor)
    return [line.plain for line in lines]


def test_curve_rises_from_left_to_right() -> None:
    lines = draw(curve("mlp", [0.0, 0.25, 0.5, 0.75, 1.0]))
    assert len(lines) == 11
    assert lines[0] == "AIE"
    assert lines[1].startswith("+1.000 ")
    assert lines[8].startswith("+0.000 M")
    heads = [len(line) - len(line[7:].lstrip()) for line in lines[1:9]]
    assert heads == sorted(heads, reverse=True)
    assert lines[9].split() == ["layer", "0", "1", "2", "3", "4"] or lines[9].split()[:2] == ["layer", "0"]
    assert lines[10].strip() == "M mlp"


def test_negative_values_lie_below_the_zero_line() -> None:
    lines = draw(curve("attn", [0.5, -0.5, 0.5]))
    assert lines[8].startswith("-0.500")
    zero = next(line for line in lines if line.startswith("+0.000"))
    assert "┈" in zero


def test_bands_are_sparse_dots_with_a_legend() -> None:
    plain = draw(curve("mlp", [0.5] * 8))
    banded = draw(curve("mlp", [0.5] * 8, 0.4))
    assert "interval" not in plain[-1]
    assert banded[-1].endswith("⠅⠅ 95 % interval")
    assert sum("⠅" in line for line in banded[1:9]) >= 5
    assert sum("⠅" in line for line in plain[1:9]) == 0


def test_each_curve_carries_its_letter() -> None:
    curves = [curve(kind, [0.1 * number] * 30) for number, kind in enumerate(KINDS)]
    lines = draw(*curves, width=78, height=20)
    rows = {
        mark: [index for index, line in enumerate(lines[1:18]) if mark in line[7:]] for mark in MARKS.values()
    }
    assert all(len(found) == 1 for found in rows.values())
    assert [rows[MARKS[kind]][0] for kind in KINDS] == sorted(
        (rows[MARKS[kind]][0] for kind in KINDS), reverse=True
    )
    assert len(set(map(str, rows.values()))) == 5
    for kind in KINDS:
        assert f"{MARKS[kind]} {kind}" in lines[-1]


def test_untraced_layers_leave_a_gap() -> None:
    lines = draw(curve("mlp", [1.0, None, None, 1.0]), width=40)
    assert lines[1][7:].count(" ") >= 8
    assert lines[1][7:].strip().startswith("M")


def test_curve_cursor_is_visible_without_color() -> None:
    curves = curve("mlp", [0.0, 0.2, 0.9, 0.1])
    assert "┊" not in "".join(draw(curves))
    lines = draw(curves, cursor=2)
    column = 7 + 2 * 4
    assert lines[1][column] == "M"
    assert {line[column] for line in lines[3:8]} <= {"┊", "M"}


@pytest.mark.parametrize("width", [20, 40, 78, 140])
@pytest.mark.parametrize("layers", [1, 2, 30, 96])
def test_curves_fit_their_area(width: int, layers: int) -> None:
    values: list[float | None] = [(-1) ** layer * 0.01 * layer for layer in range(layers)]
    for cursor in (None, 0, layers - 1):
        lines = draw(*(curve(kind, values, 0.1) for kind in KINDS), width=width, height=9, cursor=cursor)
        assert len(lines) == 9
        assert all(cell_len(line) <= width for line in lines)


def test_zero_effects_give_a_flat_line() -> None:
    assert draw(curve("mlp", [0.0, 0.0]))[8].startswith("+0.000 M")
    assert len(draw()) == 11


def test_other_curves_use_their_own_letter_and_name() -> None:
    lines = draw(curve("score", [0.2, 0.9, 0.4]), Curve("mlp", (0.1, 0.2, 0.1), (None,) * 3, "MLP x10"))
    assert any("S" in line for line in lines[1:9])
    assert lines[-1].split("  ")[:2] == ["S score", "M MLP x10"]
