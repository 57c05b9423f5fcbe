"""Figure files: format by suffix, atomic writes, and the labels of the published figures."""

from pathlib import Path
from typing import Any

import pytest

from retcon.store.catalog.tables import AverageEffect
from retcon.store.errors import InputError
from retcon.tui.presentation.figures import save_effects, save_heatmap, save_sweep
from retcon.tui.presentation.heatmap import HeatMapData

MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
TOKENS = ["The", " Eiffel", " Tower", " is", "$x$", "\n"]


def heatmap(path: Path, **changes: Any) -> str:
    estimated = changes.pop("estimated", None)
    settings: dict[str, Any] = {"kind": "hidden", "window": 1, "answer": " Paris", "model": "starter"}
    scores = [[0.01 * layer * (token + 1) for layer in range(12)] for token in range(len(TOKENS))]
    scores[5] = [None] * 12  # type: ignore[list-item]
    data = HeatMapData(TOKENS, (0, 3), scores, 0.01, 0.7, estimated=estimated)
    save_heatmap(path, data, **settings | changes)
    return path.read_text(encoding="utf-8") if path.suffix == ".svg" else ""


def effects() -> list[AverageEffect]:
    return [
        AverageEffect(trace_id=1, kind=kind, role=role, layer=layer, mean=0.1, low=0.05, high=0.2, count=9)
        for kind in ("hidden", "mlp")
        for role in ("first subject", "last subject", "last")
        for layer in range(6)
    ]


@pytest.mark.parametrize("suffix", list(MAGIC))
def test_suffix_selects_the_format(tmp_path: Path, suffix: str) -> None:
    heatmap(tmp_path / f"trace{suffix}")
    save_effects(tmp_path / f"effects{suffix}", effects(), title="starter")
    for name in ("trace", "effects"):
        assert (tmp_path / f"{name}{suffix}").read_bytes().startswith(MAGIC[suffix])
    assert len(list(tmp_path.iterdir())) == 2, "a temporary file remains"


def test_labels_match_the_published_figures(tmp_path: Path) -> None:
    hidden = heatmap(tmp_path / "hidden.svg")
    for words in ("Impact of restoring state with corrupted input", "single restored layer within starter",
                  "p(Paris)", " Tower*", "clean run p = 0.700, corrupted run p = 0.010"):  # fmt: skip
        assert words.strip() in hidden
    attn = heatmap(tmp_path / "attn.svg", kind="attn", window=10)
    assert "Impact of restoring Attn with corrupted input" in attn
    assert "center of interval of 10 restored Attn layers within starter" in attn


def test_severed_kinds_have_their_own_titles(tmp_path: Path) -> None:
    for kind, part in (("severed-mlp", "MLP"), ("severed-attn", "Attn")):
        drawn = heatmap(tmp_path / f"{kind}.svg", kind=kind)
        assert f"Impact of restoring state with {part} severed with corrupted input" in drawn
        assert "single restored layer within starter" in drawn
        assert "estimated" not in drawn


def test_estimates_are_hatched_and_counted(tmp_path: Path) -> None:
    estimated = [[token > 2 and token < 5] * 12 for token in range(len(TOKENS))]
    drawn = heatmap(tmp_path / "trace.svg", estimated=estimated)
    assert "hatched: estimated by attribution patching; 36 of 60 cells are exact" in drawn
    assert "<pattern" in drawn


def test_draws_a_kind_without_scores(tmp_path: Path) -> None:
    data = HeatMapData(TOKENS, (0, 3), [[None] * 12] * 6, 0.1, 0.7)
    save_heatmap(tmp_path / "trace.png", data, kind="severed-mlp", window=1, answer=" Paris", model="starter")


def test_draws_effects_of_all_five_kinds(tmp_path: Path) -> None:
    kinds = ("hidden", "mlp", "attn", "severed-mlp", "severed-attn")
    rows = [
        AverageEffect(trace_id=1, kind=kind, role="last", layer=layer, mean=0.1, low=0.0, high=0.2, count=9)
        for kind in kinds
        for layer in range(6)
    ]
    save_effects(tmp_path / "effects.svg", rows, title="starter")
    drawn = (tmp_path / "effects.svg").read_text(encoding="utf-8")
    for name in ("state", "MLP", "Attn", "state with MLP severed", "state with Attn severed"):
        assert f">Average indirect effect of {name}<" in drawn


def test_dollar_signs_are_not_mathematics(tmp_path: Path) -> None:
    drawn = heatmap(tmp_path / "trace.svg")
    assert "$x$" in drawn
    assert "⏎" in drawn


def test_same_trace_gives_same_bytes(tmp_path: Path) -> None:
    for suffix in (".svg", ".pdf", ".png"):
        heatmap(tmp_path / f"one{suffix}")
        heatmap(tmp_path / f"two{suffix}")
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["trace.jpg", "trace", "trace.png.exe"])
def test_other_suffixes_are_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.png, \.pdf or \.svg"):
        heatmap(tmp_path / name)
    with pytest.raises(InputError, match=r"\.png, \.pdf or \.svg"):
        save_effects(tmp_path / name, effects(), title="starter")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        heatmap(tmp_path / "not there" / "trace.png")


def test_failed_drawing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    path = tmp_path / "trace.png"
    path.write_bytes(b"old")

    def fail(self: Figure, name: Path, **_: Any) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("drawing failed")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError):
        heatmap(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_sweep_is_drawn_with_trace_effects(tmp_path: Path) -> None:
    scores = {layer: {"value": 0.5, "low": 0.4, "high": 0.6} for layer in (1, 2, 5)}
    mlp = [effect for effect in effects() if (effect.kind, effect.role) == ("mlp", "last subject")]
    for suffix, magic in MAGIC.items():
        save_sweep(tmp_path / f"s{suffix}", scores, mlp, best=2, score_name="S", title="$tiny$: r-rome")
        assert (tmp_path / f"s{suffix}").read_bytes().startswith(magic)
    drawn = (tmp_path / "s.svg").read_text()
    for words in ("S of edits at the layer", "average indirect effect on p(answer)", "$tiny$: r-rome"):
        assert words in drawn
    save_sweep(tmp_path / "alone.svg", scores, [], best=2, score_name="S", title="")
    assert "indirect effect" not in (tmp_path / "alone.svg").read_text()
