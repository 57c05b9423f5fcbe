"""Jobs: the torch-free face of the engine. Submit one, follow it, cancel it; the work happens in a process of its own.

from retcon.engine import jobs
job = jobs.submit(catalog, jobs.TraceSpec(model="starter", prompt=..., subject=...))
job = jobs.follow(catalog, job.id, on_change=print)
"""

from ..metrics import METRICS, Difference, Meaning, differences
from .comparison import compare
from .control import cancel, follow, log_path, reap, resume, submit
from .devices import CPU, devices
from .preflight import Cost, Time, cost_of, time_as_before
from .publishing import Preview, preview
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
    SHARD_BYTES,
    SUITES,
    AskSpec,
    CovarianceSpec,
    EditSpec,
    EvaluationSpec,
    ExportSpec,
    ImportEditsSpec,
    ModelSpec,
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
    "METHODS",
    "METRICS",
    "SHARD_BYTES",
    "SUITES",
    "AskSpec",
    "Cost",
    "CovarianceSpec",
    "Difference",
    "EditSpec",
    "EvaluationSpec",
    "ExportSpec",
    "ImportEditsSpec",
    "Meaning",
    "ModelSpec",
    "PreflightSpec",
    "Preview",
    "PublishSpec",
    "RevertSpec",
    "Spec",
    "SweepSpec",
    "Time",
    "TraceSpec",
    "UnpublishSpec",
    "VerifySpec",
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
    "preview",
    "reap",
    "resume",
    "settings_of",
    "submit",
    "sweep_settings",
    "time_as_before",
    "trials_of",
]
