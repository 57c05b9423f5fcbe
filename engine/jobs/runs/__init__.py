"""The work of each kind of job. Only worker processes import these modules.

`RUNS` in worker/__main__.py names the function of each kind: `run(running, spec) -> result`. The result names the rows
that the job created, e.g. `{"trace": 3}`, and is stored with the job.
"""
