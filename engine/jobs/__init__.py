"""Jobs: the torch-free face of the engine. Submit one, follow it, cancel it; the work happens in a process of its own.

from retcon.engine import jobs
job = jobs.submit(catalog, jobs.TraceSpec(model="starter", prompt=..., subject=...))
job = jobs.follow(catalog, job.id, on_change=print)
"""

from .control import cancel, follow, log_path, reap, resume, submit
from .devices import CPU, devices
from .specs import (
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
    "AskSpec",
    "CovarianceSpec",
    "EditSpec",
    "EvaluationSpec",
    "ExportSpec",
    "ModelSpec",
    "RevertSpec",
    "Spec",
    "TraceSpec",
    "VerifySpec",
    "cancel",
    "devices",
    "follow",
    "log_path",
    "reap",
    "resume",
    "submit",
]
