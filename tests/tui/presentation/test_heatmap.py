"""The heat map as text: right where it is narrow, without color, and with what vocabularies hold."""

import itertools

import pytest
from retcon.tui.presentation.estimates import merge
from retcon.tui.presentation.heatmap import DENSITY, ESTIMATE, PALETTE, lay_out, render, render_lines, step_of
from retcon.tui.presentation.text import sanitize, token_label
from rich.cells import cell_len
from rich.color import Color, ColorSystem

TOKENS = ["The", " Tower", " is"]


def draw(scores: list[list[float | None]], **options: object) -> list[str]:
    given = {"low": 0.0, "high": 1.0, "title": "p(Paris)", "width": 40, "color": False, **options}
    return render(TOKENS, (0, 2), scores, **given).plain.split("\n")  # type: ignore[arg-type]


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


def test_layers_that_do_not_fit_share_a_column_by_the_highest() -> None:
    scores: list[list[float | None]] = [[0.0] * 48 for _ in TOKENS]
    scores[1][31] = 1.0
    layout = lay_out(["The*", " Tower*", " is"], 48, 24)
    lines = draw(scores, width=24)
    assert layout.shared == 3
    assert "each column is the" in lines[-1]
    begin, _ = layout.span(31)
    assert [index for index, char in enumerate(lines[2]) if char == "█"] == [begin]
    assert layout.layer_at(begin) == 30


def test_two_columns_a_layer_where_there_is_room() -> None:
    assert lay_out(["The"], 30, 80).cell == 2
    assert lay_out(["The"], 48, 80).cell == 1


def test_axis_numbers_stand_under_their_layers() -> None:
    layout = lay_out(["The*", " Tower*", " is"], 30, 80)
    axis = draw([[0.0] * 30 for _ in TOKENS], width=80)[4]
    for layer in (0, 5, 25):
        begin, _ = layout.span(layer)
        assert axis[begin:].split()[0] == str(layer)


def test_density_goes_along_with_color() -> None:
    scores: list[list[float | None]] = [[0.0, 0.2, 0.5, 0.9], [None] * 4, [1.0] * 4]
    assert [line[:17] for line in draw(scores, color=True)[1:4]] == [
        line[:17] for line in draw(scores, color=False)[1:4]
    ]
    colored = render_lines(TOKENS, (0, 2), scores, low=0, high=1, title="", width=40)[1]
    assert {str(span.style).split(" on ")[1] for span in colored.spans if " on " in str(span.style)} == {
        PALETTE[step_of(value, 0, 1)] for value in (0.0, 0.2, 0.5, 0.9)
    }
    assert not any(
        " on " in str(span.style)
        for line in render_lines(TOKENS, (0, 2), scores, low=0, high=1, title="", width=40, color=False)
        for span in line.spans
    )


def test_palette_survives_256_colors_and_grows_lighter() -> None:
    colors = [Color.parse(color) for color in PALETTE]
    for color in colors:
        assert color.downgrade(ColorSystem.EIGHT_BIT).get_truecolor() == color.get_truecolor()

    def luminance(color: Color) -> float:
        parts = [part / 255 for part in color.get_truecolor()]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert all(one < other for one, other in itertools.pairwise(map(luminance, colors)))
    assert len(PALETTE) == 16


def test_scale_ends_hold_what_is_outside() -> None:
    assert step_of(-1.0, 0.0, 1.0) == 0
    assert step_of(2.0, 0.0, 1.0) == 15
    assert step_of(0.5, 0.5, 0.5) == 0
    assert step_of(0.6, 0.5, 0.5) == 15


def test_no_number_is_a_blank() -> None:
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
def test_tokens_cannot_steer_the_terminal(token: str, shown: str) -> None:
    assert token_label(token) == shown
    line = render([token], (0, 0), [[0.0]], low=0, high=1, title="", width=60, color=False).plain.split("\n")[
        1
    ]
    assert line.rstrip("· ").rstrip() in (shown, shown.rstrip("·"))
    assert "\x1b" not in line


def test_wide_characters_keep_the_columns_straight() -> None:
    lines = render(
        ["日本", "x"], (0, 0), [[1.0], [1.0]], low=0, high=1, title="", width=40, color=False
    ).plain
    first, second = lines.split("\n")[1:3]
    assert cell_len(first) == cell_len(second)


def test_no_token_at_all() -> None:
    assert render([], (0, 0), [], low=0, high=1, title="nothing", width=40).plain.startswith("nothing")


def test_cursor_is_seen_without_color() -> None:
    lines = render_lines(
        TOKENS, (0, 2), [[0.0] * 3] * 3, low=0, high=1, title="", width=40, color=False, cursor=(1, 2)
    )
    assert lines[2].plain == " Tower* ····[]"


def test_plain_leaves_ordinary_text_alone() -> None:
    assert sanitize("Where is Zürich? 東京") == "Where is Zürich? 東京"
    assert set(DENSITY) & {" "} == set()


def test_an_estimate_is_told_from_an_exact_cell_without_color() -> None:
    merged = merge([[0.0, 0.5, 1.0], [0.4, None, None], [None] * 3], [[0.0, 0.5, 1.0]] * 3)
    assert (merged.exact, merged.total) == (4, 9)
    lines = draw(merged.rows, estimated=merged.estimated, width=70)  # type: ignore[arg-type]
    assert lines == [
        "p(Paris)",
        "The*    ··▒▒██",
        " Tower* ░░++##",
        " is     ..++##",
        "layer   0   2",
        "p 0.000 ··░░▒▒▓▓██ 1.000  * corrupted",
        "~ estimate .:+x# (attribution patching), 4 of 9 cells exact",
    ]
    assert not set(ESTIMATE) & set(DENSITY)
    assert len(ESTIMATE) == len(DENSITY)


def test_an_exact_map_says_nothing_of_estimates() -> None:
    merged = merge([[0.0, None, 1.0]] * 3, None)
    assert (merged.exact, merged.total) == (6, 6)
    assert draw(merged.rows, estimated=merged.estimated) == draw(merged.rows)  # type: ignore[arg-type]


def test_an_estimate_in_a_shared_column_marks_it() -> None:
    estimated = [[False] * 48, [layer == 30 for layer in range(48)], [False] * 48]
    lines = draw([[0.5] * 48 for _ in TOKENS], width=24, estimated=estimated)
    assert [line.count("+") for line in lines[1:4]] == [0, 1, 0]
    assert all(cell_len(line) <= 24 for line in lines)


def test_estimates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        merge([[0.0, 1.0]], [[0.0]])
