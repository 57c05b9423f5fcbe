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
from .devices import CPU, devices

if TYPE_CHECKING:
    from ..metrics import METRICS, Difference, Meaning, differences
    from .comparison import compare
    from .control import cancel, follow, log_path, reap, resume, submit
    from .preflight import Cost, Time, cost_of, time_as_before
    from .settings import (
        METHODS,
        check_layers,
        check_method,
        check_noise,
        parse_tries,
        settings_of,
        sweep_settings,
        trials_of,
    )
    from .specs import (
        SUITES,
        AskSpec,
        CovarianceSpec,
        EditSpec,
        EvaluationSpec,
        ExportSpec,
        ModelSpec,
        PreflightSpec,
        RevertSpec,
        Spec,
        SweepSpec,
        TraceSpec,
        VerifySpec,
    )
    from .warm import Question, Warm

__all__ = [
    "CPU",
    "METHODS",
    "METRICS",
    "SUITES",
    "AskSpec",
    "Cost",
    "CovarianceSpec",
    "Difference",
    "EditSpec",
    "EvaluationSpec",
    "ExportSpec",
    "Meaning",
    "ModelSpec",
    "PreflightSpec",
    "Question",
    "RevertSpec",
    "Spec",
    "SweepSpec",
    "Time",
    "TraceSpec",
    "VerifySpec",
    "Warm",
    "cancel",
    "check_layers",
    "check_method",
    "check_noise",
    "compare",
    "cost_of",
    "devices",
    "differences",
    "follow",
    "log_path",
    "parse_tries",
    "reap",
    "resume",
    "settings_of",
    "submit",
    "sweep_settings",
    "time_as_before",
    "trials_of",
]

_MODULES = {
    "..metrics": ("METRICS", "Difference", "Meaning", "differences"),
    ".comparison": ("compare",),
    ".control": ("cancel", "follow", "log_path", "reap", "resume", "submit"),
    ".preflight": ("Cost", "Time", "cost_of", "time_as_before"),
    ".settings": (
        "METHODS",
        "check_layers",
        "check_method",
        "check_noise",
        "parse_tries",
        "settings_of",
        "sweep_settings",
        "trials_of",
    ),
    ".specs": (
        "SUITES",
        "AskSpec",
        "CovarianceSpec",
        "EditSpec",
        "EvaluationSpec",
        "ExportSpec",
        "ModelSpec",
        "PreflightSpec",
        "RevertSpec",
        "Spec",
        "SweepSpec",
        "TraceSpec",
        "VerifySpec",
    ),
    ".warm": ("Question", "Warm"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name], __name__), name)
    return found
