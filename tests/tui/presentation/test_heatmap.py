"""The heat map as text: on narrow terminals, without color, and with unusual tokens."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from rich.cells import cell_len
from rich.color import Color, ColorSystem

from retcon.tui.presentation.heatmap import (
    ESTIMATED_GLYPHS,
    EXACT_GLYPHS,
    PALETTE,
    HeatMapData,
    lay_out,
    merge_attribution,
    render,
    render_lines,
    step_of,
)
from retcon.tui.presentation.text import sanitize, token_label

TOKENS = ["The", " Tower", " is"]


def draw(scores: Any, **options: Any) -> list[str]:
    settings: dict[str, Any] = {"title": "p(Paris)", "width": 40, "color": False, **options}
    width, color = settings.pop("width"), settings.pop("color")
    return render(data(scores, **settings), width, color=color).plain.split("\n")


def data(
    scores: Any, tokens: Sequence[str] = TOKENS, subject: tuple[int, int] = (0, 2), **options: Any
) -> HeatMapData:
    return HeatMapData(tokens, subject, scores, 0.0, 1.0, **options)


def test_tokens_down_and_layers_across() -> None:
    lines = draw([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [None, 0.3, 0.7]])
    assert lines == [
        "p(Paris)",
        "The*    ··▒▒██",
        " Tower* ······",
        " is       ░░▓▓",
        "layer   0   2",
        "p 0.000 ··░░▒▒▓▓██ 1.000  * corrupted",
    ]


@pytest.mark.parametrize("width", [20, 33, 60, 80, 200])
@pytest.mark.parametrize("layers", [1, 6, 30, 48, 96])
@pytest.mark.parametrize("color", [True, False])
def test_fits_the_width(width: int, layers: int, color: bool) -> None:
    scores = [[0.5] * layers for _ in TOKENS]
    lines = draw(scores, width=width, color=color, title="a title that is rather long " * 9)
    assert all(cell_len(line) <= width for line in lines)


def test_shared_columns_show_the_highest_layer() -> None:
    scores: list[list[float | None]] = [[0.0] * 48 for _ in TOKENS]
    scores[1][31] = 1.0
    layout = lay_out(["The*", " Tower*", " is"], 48, 24)
    lines = draw(scores, width=24)
    assert layout.shared == 3
    assert "each column shows the" in lines[-1]
    begin, _ = layout.span(31)
    assert [index for index, char in enumerate(lines[2]) if char == "█"] == [begin]
    assert layout.layer_at(begin) == 30


def test_wide_terminals_use_two_columns_per_layer() -> None:
    assert lay_out(["The"], 30, 80).cell == 2
    assert lay_out(["The"], 48, 80).cell == 1


def test_axis_numbers_align_with_their_layers() -> None:
    layout = lay_out(["The*", " Tower*", " is"], 30, 80)
    axis = draw([[0.0] * 30 for _ in TOKENS], width=80)[4]
    for layer in (0, 5, 25):
        begin, _ = layout.span(layer)
        assert axis[begin:].split()[0] == str(layer)


def test_colored_cells_keep_their_density() -> None:
    scores: list[list[float | None]] = [[0.0, 0.2, 0.5, 0.9], [None] * 4, [1.0] * 4]
    assert [line[:17] for line in draw(scores, color=True)[1:4]] == [
        line[:17] for line in draw(scores, color=False)[1:4]
    ]
    colored = render_lines(data(scores), 40)[1]
    assert {str(span.style).split(" on ")[1] for span in colored.spans if " on " in str(span.style)} == {
        PALETTE[step_of(value, 0, 1)] for value in (0.0, 0.2, 0.5, 0.9)
    }
    assert not any(
        " on " in str(span.style)
        for line in render_lines(data(scores), 40, color=False)
        for span in line.spans
    )


def test_palette_is_exact_in_256_colors_and_gets_lighter() -> None:
    colors = [Color.parse(color) for color in PALETTE]
    for color in colors:
        assert color.downgrade(ColorSystem.EIGHT_BIT).get_truecolor() == color.get_truecolor()

    def luminance(color: Color) -> float:
        parts = [part / 255 for part in color.get_truecolor()]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert all(one < other for one, other in itertools.pairwise(map(luminance, colors)))
    assert len(PALETTE) == 16


def test_scores_outside_the_scale_get_its_ends() -> None:
    assert step_of(-1.0, 0.0, 1.0) == 0
    assert step_of(2.0, 0.0, 1.0) == 15
    assert step_of(0.5, 0.5, 0.5) == 0
    assert step_of(0.6, 0.5, 0.5) == 15


def test_missing_and_nan_scores_are_blank() -> None:
    assert draw([[float("nan"), None, 1.0], [0.0] * 3, [0.0] * 3])[1] == "The*        ██"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("\n", "⏎"),
        ("\t", "⇥"),
        ("\x1b[31mred", "·[31mred"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("a\u202eb", "a·b"),
        ("   ", "␣␣␣"),
        ("\u0301", "◌\u0301"),
        ("日本", "日本"),
    ],
)
def test_tokens_cannot_control_the_terminal(token: str, shown: str) -> None:
    assert token_label(token) == shown
    line = draw([[0.0]], tokens=[token], subject=(0, 0), width=60)[1]
    assert line.rstrip("· ").rstrip() in (shown, shown.rstrip("·"))
    assert "\x1b" not in line


def test_wide_characters_keep_columns_aligned() -> None:
    first, second = draw([[1.0], [1.0]], tokens=["日本", "x"], subject=(0, 0))[1:3]
    assert cell_len(first) == cell_len(second)


def test_map_without_tokens_shows_its_title() -> None:
    assert draw([], tokens=[], subject=(0, 0), title="nothing")[0] == "nothing"


def test_cursor_is_visible_without_color() -> None:
    lines = render_lines(data([[0.0] * 3] * 3), 40, color=False, cursor=(1, 2))
    assert lines[2].plain == " Tower* ····[]"


def test_sanitize_keeps_ordinary_text() -> None:
    assert sanitize("Where is Zürich? 東京") == "Where is Zürich? 東京"
    assert set(EXACT_GLYPHS) & {" "} == set()


def test_estimated_cells_differ_without_color() -> None:
    merged = merge_attribution([[0.0, 0.5, 1.0], [0.4, None, None], [None] * 3], [[0.0, 0.5, 1.0]] * 3)
    assert data(merged.rows, estimated=merged.estimated).exact_and_total == (4, 9)
    lines = draw(merged.rows, estimated=merged.estimated, width=70)
    assert lines == [
        "p(Paris)",
        "The*    ··▒▒██",
        " Tower* ░░++##",
        " is     ..++##",
        "layer   0   2",
        "p 0.000 ··░░▒▒▓▓██ 1.000  * corrupted",
        "~ estimate .:+x# (attribution patching), 4 of 9 cells exact",
    ]
    assert not set(ESTIMATED_GLYPHS) & set(EXACT_GLYPHS)
    assert len(ESTIMATED_GLYPHS) == len(EXACT_GLYPHS)


def test_exact_map_has_no_note_on_estimates() -> None:
    merged = merge_attribution([[0.0, None, 1.0]] * 3, None)
    assert data(merged.rows, estimated=merged.estimated).exact_and_total == (6, 6)
    assert draw(merged.rows, estimated=merged.estimated) == draw(merged.rows)


def test_one_estimate_marks_a_shared_column() -> None:
    estimated = [[False] * 48, [layer == 30 for layer in range(48)], [False] * 48]
    lines = draw([[0.5] * 48 for _ in TOKENS], width=24, estimated=estimated)
    assert [line.count("+") for line in lines[1:4]] == [0, 1, 0]
    assert all(cell_len(line) <= 24 for line in lines)


def test_attribution_of_another_shape_is_rejected() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        merge_attribution([[0.0, 1.0]], [[0.0]])
