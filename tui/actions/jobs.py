"""Choose where a job runs, and remove jobs that have ended."""

from collections.abc import Sequence

from ...engine.jobs.devices import CPU, is_on_ray, list_devices, parse_ray_device, split_devices
from ...engine.jobs.reap import reap
from ...store.catalog.catalog import Catalog
from ...store.errors import InputError
from ...store.states import ENDED_STATES


def resolve_device(device: str | None, on: str | None = None) -> str:
    """Choose the device: one of this machine, several GPUs joined by +, or a Ray cluster (`on`); by default the first.

    Raises:
        InputError: the device does not exist, or a device and a Ray cluster were both chosen.
    """
    if on is not None:
        if device is not None:
            raise InputError("--on excludes --device and --devices: Ray assigns its own devices")
        return parse_ray_device(on)
    known = list_devices()
    if device is None:
        return known[0]
    if is_on_ray(device):
        return device
    parts = split_devices(device)
    if missing := [part for part in parts if part not in known]:
        raise InputError(f"device {missing[0]!r} does not exist here; the devices are {', '.join(known)}")
    if len(parts) > len(set(parts)) or (len(parts) > 1 and CPU in parts):
        raise InputError(f"{device!r} is not a set of different GPUs to spread a model over")
    return device


def remove_jobs(catalog: Catalog, ids: Sequence[int]) -> None:
    """Remove the rows and logs of ended jobs. Their results are kept.

    Raises:
        InputError: a job has not ended; then none is removed.
        NotFound: a job does not exist.
    """
    # Not at the top: it loads SQLModel, which `retcon job list` works without.
    from ...store import jobs as job_rows

    reap(catalog)
    with catalog.write() as session:
        for id in ids:
            job = job_rows.get(session, id)
            if job.state not in ENDED_STATES:
                raise InputError(f"job {id} is {job.state}; cancel it first: retcon job cancel {id}")
            session.delete(job)
    for id in ids:
        for path in catalog.home.logs.glob(f"job-{id}.*"):
            path.unlink(missing_ok=True)
