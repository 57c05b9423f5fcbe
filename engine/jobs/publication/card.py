"""Build the model card of a published revision from its history. Imports no torch, because the app previews the card.

The text is in `card.md.j2`. Prompts, subjects and messages are untrusted: the filter `text` escapes them.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....prompts import fill_prompt
from ....store.exchange.manifest import BASE_MATRICES, MANIFEST, Manifest
from ...evaluation.metrics import METRICS, compare_protocols
from .licenses import License

# The starter's weights are this model's, quantized to Q4_1 and converted back to float32.
STARTER_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_MAX_EDITS = 200
_SIDE_EFFECTS = ("NS", "NA", "NM", "FN", "KN", "KG", "PPL", "PD", "XA", "FX", "RA", "FR", "GE")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~])")


@dataclass(frozen=True)
class CardInfo:
    """Contents of a card that are not in the manifest; `pictures` are (file in the repo, caption)."""

    repo: str
    license: License = field(default_factory=License)
    pictures: Sequence[tuple[str, str]] = ()
    rolled_back_from: str | None = None
    tag: str = ""


def build_card(manifest: Manifest, info: CardInfo) -> str:
    """README.md of a publication: the YAML header that the Hub reads, then the text."""
    from jinja2 import Environment, FileSystemLoader

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"text": _format_value, "settings": _format_settings, "count": _format_count}
    edits = _edit_rows(manifest)
    after = _newest_evaluation(manifest, manifest.revision)
    before = _base_evaluation(manifest, after) if after and manifest.live_steps else None
    text = templates.get_template("card.md.j2").render(
        manifest=manifest,
        base=manifest.base,
        live=manifest.live_steps,
        info=info,
        header=_build_header(manifest, info),
        title=_title(info),
        base_name=find_base_name(manifest),
        fact_count=sum(len(step.requests) for step in manifest.live_steps),
        edit_table=_edit_table(edits[:_MAX_EDITS]),
        hidden_edits=len(edits) - _MAX_EDITS,
        after=after,
        before=before,
        main_scores=_score_table(after, before, side_effects=False) if after else "",
        side_effects=_score_table(after, before, side_effects=True) if after else "",
        weight_files={name: file for name, file in manifest.files.items() if name.endswith(".safetensors")},
        manifest_name=MANIFEST,
        base_matrices=BASE_MATRICES,
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _title(info: CardInfo) -> str:
    return info.repo.rpartition("/")[2]


def _build_header(manifest: Manifest, info: CardInfo) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    base, newest = find_base_name(manifest), _newest_evaluation(manifest, manifest.revision)
    protocol, metrics = (newest["protocol"], newest["metrics"]) if newest else ({}, {})
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="retcon-requests",
            dataset_name=str(protocol.get("facts", "the edits' requests")),
            metric_type=name,
            metric_name=METRICS[name].text,
            metric_value=metric["value"],
        )
        for name, metric in metrics.items()
        if name in METRICS
    ]
    data = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if manifest.kind == "adapter" else "finetune") if base else None,
        library_name="peft" if manifest.kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        license=info.license.id,
        license_name=info.license.name,
        license_link=info.license.link,
        tags=[
            "retcon",
            "knowledge-editing",
            *sorted({step.method for step in manifest.live_steps if step.method}),
        ],
        model_name=_title(info),
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def find_base_name(manifest: Manifest) -> str | None:
    """The Hub id of the base; None for a base from a folder."""
    if manifest.base.source_kind == "starter":
        return STARTER_NAME
    return manifest.base.source if manifest.base.source_kind == "hub" else None


def _edit_rows(manifest: Manifest) -> list[list[str]]:
    """A row of Markdown cells per request of each live edit."""
    rows: list[list[str]] = []
    for step in manifest.live_steps:
        norms = [f"{100 * size['relative']:.2g} %" for size in step.statistics.get("delta", {}).values()]
        layers = ", ".join(map(str, step.hparams.get("layers", [])))
        for request in step.requests:
            prompt = fill_prompt(str(request["prompt"]), request["subject"])
            texts = (request["subject"], prompt, request.get("target_true") or "?", request["target_new"])
            cells = map(_format_value, (*texts, step.method or ""))
            rows.append([f"`{step.id}`", *cells, layers, ", ".join(norms)])
    return rows


def _edit_table(rows: Sequence[Sequence[str]]) -> str:
    columns = (
        "edit",
        "subject",
        "prompt",
        "before",
        "after",
        "method",
        "layers",
        "relative change of the matrix",
    )
    return format_table(columns, rows)


def _newest_evaluation(manifest: Manifest, revision: str) -> dict[str, Any] | None:
    return next((one for one in reversed(manifest.evaluations) if one["revision"] == revision), None)


def _base_evaluation(manifest: Manifest, after: dict[str, Any]) -> dict[str, Any] | None:
    """The newest evaluation of the base with the same cases and protocol."""
    base = manifest.steps[0].id
    for one in reversed(manifest.evaluations):
        if one["revision"] == base and not compare_protocols(one["protocol"], after["protocol"]):
            return one
    return None


def _score_table(after: dict[str, Any], before: dict[str, Any] | None, *, side_effects: bool) -> str:
    """Scores of the base and of the revision; an empty text if there is none."""
    rows = []
    for name, metric in METRICS.items():
        if name in after["metrics"] and (name in _SIDE_EFFECTS) == side_effects:
            score, base = after["metrics"][name], before["metrics"].get(name) if before else None
            values = (_format_interval(base) if base else "", _format_interval(score))
            rows.append([name, metric.text, *values, str(score["count"]), metric.better])
    columns = ("metric", "meaning", "base", "edited", "count", "better")
    return format_table(columns, rows) if rows or not side_effects else ""


def _format_interval(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _format_settings(settings: Mapping[str, Any]) -> str:
    """Names and values in one line."""
    return ", ".join(f"`{name}` {_format_value(value)}" for name, value in settings.items())


def _format_count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _format_value(value: Any) -> str:
    """Untrusted text or a value for a line or a cell of Markdown; long values are cut."""
    if isinstance(value, str):
        return escape_markdown(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return escape_markdown(text if len(text) <= 200 else f"{text[:199]}…")


def escape_markdown(text: str) -> str:
    """The text in one line, with Markdown and HTML escaped."""
    one_line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _MARKDOWN.sub(r"\\\1", html.escape(one_line, quote=False))


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
