"""Jobs: the torch-free face of the engine. Submit one, follow it, cancel it; the work happens in a process of its own.

from retcon.engine import jobs
job = jobs.submit(catalog, jobs.TraceSpec(model="starter", prompt=..., subject=...))
job = jobs.follow(catalog, job.id, on_change=print)
"""

from ..metrics import METRICS, Difference, Meaning, differences
from .comparison import compare
from .control import GRACE_SECONDS, ask_to_stop, follow, log_path, reap, resume, resume_all, stop, submit
from .devices import CPU, devices, parts
from .preflight import Cost, Time, cost_of, time_as_before
from .publishing import Preview, preview
from .record import job_record
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
    "GRACE_SECONDS",
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
    "ask_to_stop",
    "check_layers",
    "check_method",
    "check_noise",
    "compare",
    "cost_of",
    "devices",
    "differences",
    "follow",
    "job_record",
    "log_path",
    "parse_tries",
    "parts",
    "preview",
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
