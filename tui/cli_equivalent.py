"""Commands that do the same as an action of the app. The app shows them."""

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.jobs.specs import CovarianceSpec, EditSpec, ModelSpec, PublishSpec, TraceSpec

# The specs are imported when a form needs them: they take a tenth of the app's import time.


def command(*words: str | int) -> str:
    """`retcon` and the words, quoted for a shell."""
    return shlex.join(["retcon", *map(str, words)])


def add_model(spec: "ModelSpec") -> str:
    """`retcon model add` for this job."""
    return command("model", "add", spec.source, "--name", spec.name)


def run_trace(spec: "TraceSpec", target: str) -> str:
    """`retcon trace run` for this job."""
    from ..engine.jobs.specs import TraceSpec

    if spec.facts is not None:
        words = ["--facts", spec.facts]
    else:
        words = ["--prompt", spec.prompt or "", "--subject", spec.subject or ""]
    default = TraceSpec("")
    if spec.kinds != default.kinds:
        words += ["--kinds", ",".join(spec.kinds)]
    for option, name in (
        ("--expect", "expected"), ("--noise", "noise"), ("--texts", "texts"), ("--swap-subject", "swap"),
        ("--samples", "samples"), ("--window", "window"), ("--seed", "seed"), ("--tokens", "tokens"),
    ):  # fmt: skip
        value = getattr(spec, name)
        if value not in (None, getattr(default, name)):
            words += [option, str(value)]
    if spec.replace:
        words.append("--replace")
    return command("trace", "run", target, *words)


def extend_covariance(spec: "CovarianceSpec") -> str:
    """`retcon covariance extend` for this job."""
    until = ["--until-converged", spec.tolerance] if spec.tolerance is not None else []
    return command("covariance", "extend", *spec.extends, "--max-tokens", spec.max_tokens, *map(str, until))


def publish(spec: "PublishSpec", card: str | None = None) -> str:
    """`retcon publish` for this job; `card` is the file of an edited card."""
    words = ["--as", spec.export_kind] if spec.export_kind != "checkpoint" else []
    for option, value in (("--license", spec.license), ("-m", spec.message), ("--card", card)):
        if value:
            words += [option, value]
    words += ["--public"] * spec.public + ["--dry-run"] * spec.dry_run
    return command("publish", f"{spec.model}@{spec.revision}", spec.repo, *words)


def run_edit(spec: "EditSpec", target: str) -> str:
    """`retcon edit run` for this job, which has one request."""
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
