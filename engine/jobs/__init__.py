"""Jobs: the torch-free face of the engine. Submit one, follow it, cancel it; the work happens in a process of its own.

from retcon.engine import jobs
job = jobs.submit(catalog, jobs.TraceSpec(model="starter", prompt=..., subject=...))
job = jobs.follow(catalog, job.id, on_change=print)
"""

from ..metrics import METRICS, Difference, Meaning, differences
from .clusters import RAY, is_on_ray, ray_device
from .comparison import compare
from .control import GRACE_SECONDS, ask_to_stop, follow, log_path, reap, resume, resume_all, stop, submit
from .devices import CPU, devices
from .preflight import Cost, Time, cost_of, time_as_before
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

__all__ = [
    "CPU",
    "GRACE_SECONDS",
    "METHODS",
    "METRICS",
    "RAY",
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
    "RevertSpec",
    "Spec",
    "SweepSpec",
    "Time",
    "TraceSpec",
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
    "is_on_ray",
    "job_record",
    "log_path",
    "parse_tries",
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
