"""Jobs: the torch-free face of the engine. Submit one, follow it, cancel it; the work happens in a process of its own.

from retcon.engine import jobs
job = jobs.submit(catalog, jobs.TraceSpec(model="starter", prompt=..., subject=...))
job = jobs.follow(catalog, job.id, on_change=print)
"""

from ..metrics import METRICS, Difference, Meaning, differences
from .comparison import compare
from .control import cancel, follow, log_path, reap, resume, submit
from .devices import CPU, devices
from .specs import (
    SUITES,
    AskSpec,
    CovarianceSpec,
    EditSpec,
    EvaluationSpec,
    ExportSpec,
    ModelSpec,
    RevertSpec,
    Spec,
    TraceSpec,
    VerifySpec,
)

__all__ = [
    "CPU",
    "METRICS",
    "SUITES",
    "AskSpec",
    "CovarianceSpec",
    "Difference",
    "EditSpec",
    "EvaluationSpec",
    "ExportSpec",
    "Meaning",
    "ModelSpec",
    "RevertSpec",
    "Spec",
    "TraceSpec",
    "VerifySpec",
    "cancel",
    "compare",
    "devices",
    "differences",
    "follow",
    "log_path",
    "reap",
    "resume",
    "submit",
]
