"""Jobs: the torch-free face of the engine. Submit one, follow it, cancel it; the work happens in a process of its own.

from retcon.engine import jobs
job = jobs.submit(catalog, jobs.TraceSpec(model="starter", prompt=..., subject=...))
job = jobs.follow(catalog, job.id, on_change=print)

What a name stands for is imported when it is first used: the app knows the metrics by their names from its first
screen on, and most of the rest loads SQLModel.
"""

import importlib
from typing import TYPE_CHECKING, Any

# At once: the function would else be hidden by its module of the same name.
from .devices import CPU, devices, parts

if TYPE_CHECKING:
    from ..evaluation.metrics import METRICS, MetricInfo, ProtocolDifference, compare_protocols
    from ..tracing.rules import KINDS, NoiseRule
    from .clusters import RAY, is_on_ray, ray_device
    from .comparison import compare
    from .control import ask_to_stop, follow, resume, resume_all, stop, submit
    from .cost import Cost, Time, cost_of, time_as_before
    from .listing import GRACE_SECONDS, ListedJob, newest_jobs, reap
    from .prompting.client import Question, Warm
    from .publication.preview import Preview, check_repo, preview
    from .record import job_record
    from .settings import (
        METHODS,
        check_layers,
        check_method,
        check_noise,
        check_ways,
        edit_by,
        parse_tries,
        settings_of,
        sweep_settings,
        trials_of,
    )
    from .specs import (
        SHARD_BYTES,
        SUITES,
        AskSpec,
        CovarianceSpec,
        EditSpec,
        EvaluationSpec,
        ExportSpec,
        ImportEditsSpec,
        ModelSpec,
        PassageSpec,
        PreflightSpec,
        PublishSpec,
        RevertSpec,
        Spec,
        SweepSpec,
        TraceSpec,
        UnpublishSpec,
        VerifySpec,
    )

__all__ = [
    "CPU",
    "GRACE_SECONDS",
    "KINDS",
    "METHODS",
    "METRICS",
    "RAY",
    "SHARD_BYTES",
    "SUITES",
    "AskSpec",
    "Cost",
    "CovarianceSpec",
    "EditSpec",
    "EvaluationSpec",
    "ExportSpec",
    "ImportEditsSpec",
    "ListedJob",
    "MetricInfo",
    "ModelSpec",
    "NoiseRule",
    "PassageSpec",
    "PreflightSpec",
    "Preview",
    "ProtocolDifference",
    "PublishSpec",
    "Question",
    "RevertSpec",
    "Spec",
    "SweepSpec",
    "Time",
    "TraceSpec",
    "UnpublishSpec",
    "VerifySpec",
    "Warm",
    "ask_to_stop",
    "check_layers",
    "check_method",
    "check_noise",
    "check_repo",
    "check_ways",
    "compare",
    "compare_protocols",
    "cost_of",
    "devices",
    "edit_by",
    "follow",
    "is_on_ray",
    "job_record",
    "newest_jobs",
    "parse_tries",
    "parts",
    "preview",
    "ray_device",
    "reap",
    "resume",
    "resume_all",
    "settings_of",
    "stop",
    "submit",
    "sweep_settings",
    "time_as_before",
    "trials_of",
]

_MODULES = {
    "..evaluation.metrics": ("METRICS", "ProtocolDifference", "MetricInfo", "compare_protocols"),
    "..tracing.rules": ("KINDS", "NoiseRule"),
    ".clusters": ("RAY", "is_on_ray", "ray_device"),
    ".comparison": ("compare",),
    ".control": (
        "ask_to_stop",
        "follow",
        "resume",
        "resume_all",
        "stop",
        "submit",
    ),
    ".listing": ("GRACE_SECONDS", "ListedJob", "newest_jobs", "reap"),
    ".cost": ("Cost", "Time", "cost_of", "time_as_before"),
    ".publication.preview": ("Preview", "check_repo", "preview"),
    ".record": ("job_record",),
    ".settings": (
        "METHODS",
        "check_layers",
        "check_method",
        "check_noise",
        "check_ways",
        "edit_by",
        "parse_tries",
        "settings_of",
        "sweep_settings",
        "trials_of",
    ),
    ".specs": (
        "SHARD_BYTES",
        "SUITES",
        "AskSpec",
        "CovarianceSpec",
        "EditSpec",
        "EvaluationSpec",
        "ExportSpec",
        "ImportEditsSpec",
        "ModelSpec",
        "PassageSpec",
        "PreflightSpec",
        "PublishSpec",
        "RevertSpec",
        "Spec",
        "SweepSpec",
        "TraceSpec",
        "UnpublishSpec",
        "VerifySpec",
    ),
    ".prompting.client": ("Question", "Warm"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name], __name__), name)
    return found
