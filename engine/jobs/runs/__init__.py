"""What each kind of job does: one module per kind, each with `run(running, spec) -> made`.

`made` names the rows that came of it, e.g. `{"trace": 3}`; it becomes the job's `made`. Only worker processes
import these.
"""
