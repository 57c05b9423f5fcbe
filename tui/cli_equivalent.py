"""The command line that does the same: shown for each verb, so that the app teaches it."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.jobs.specs import CovarianceSpec, EditSpec, ModelSpec, PublishSpec, TraceSpec

# What of it is named is imported when a form needs it: the dataclasses take a tenth of what the app loads at first.


def command(*words: str | int) -> str:
    """`retcon` and the words, quoted so that a shell takes them as they are."""
    return shlex.join(["retcon", *map(str, words)])


def add_model(spec: "ModelSpec") -> str:
    """`retcon model add` that makes the same job."""
    return command("model", "add", spec.source, "--name", spec.name)


def run_trace(spec: "TraceSpec", target: str) -> str:
    """`retcon trace run` that makes the same job."""
    from ..engine.jobs.specs import TraceSpec

    if spec.facts is not None:
        words = ["--facts", spec.facts]
    else:
        words = ["--prompt", spec.prompt or "", "--subject", spec.subject or ""]
    usual = TraceSpec("")
    if spec.kinds != usual.kinds:
        words += ["--kinds", ",".join(spec.kinds)]
    for option, value, default in (
        ("--expect", spec.expected, usual.expected),
        ("--noise", spec.noise, usual.noise),
        ("--texts", spec.texts, usual.texts),
        ("--swap-subject", spec.swap, usual.swap),
        ("--samples", spec.samples, usual.samples),
        ("--window", spec.window, usual.window),
        ("--seed", spec.seed, usual.seed),
        ("--tokens", spec.tokens, usual.tokens),
    ):
        if value != default and value is not None:
            words += [option, str(value)]
    if spec.replace:
        words.append("--replace")
    return command("trace", "run", target, *words)


def top_up(spec: "CovarianceSpec") -> str:
    """`retcon covariance extend` that makes the same job."""
    until = ["--until-converged", spec.tolerance] if spec.tolerance is not None else []
    return command("covariance", "extend", *spec.extends, "--max-tokens", spec.max_tokens, *map(str, until))


def publish(spec: "PublishSpec", card: str | None = None) -> str:
    """`retcon publish` that makes the same job; `card` is the file that a card was saved in as it was edited."""
    words = ["--as", spec.what] if spec.what != "checkpoint" else []
    for option, value in (("--license", spec.license), ("-m", spec.message), ("--card", card)):
        if value:
            words += [option, value]
    words += ["--public"] * spec.public + ["--dry-run"] * spec.dry_run
    return command("publish", f"{spec.model}@{spec.revision}", spec.repo, *words)


def run_edit(spec: "EditSpec", target: str) -> str:
    """`retcon edit run` that makes the same job; for one request."""
    request = spec.requests[0]
    words = [
        "--prompt",
        request["prompt"],
        "--subject",
        request["subject"],
        "--target",
        request["target_new"],
    ]
    if request.get("target_true"):
        words += ["--true", request["target_true"]]
    words += ["--method", spec.method]
    for layer in spec.hparams.get("layers", []):
        words += ["--layer", str(layer)]
    return command("edit", "run", target, *words)
