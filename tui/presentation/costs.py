"""What a job will cost here, in words."""

from ...engine import jobs
from ...store.catalog.catalog import Catalog


def told_cost(cost: "jobs.Cost") -> str:
    """Memory and disk, a line each, and what will not suffice."""
    free = "" if cost.memory_free is None else f", {size(cost.memory_free)} free"
    lines = [
        f"memory  at most {size(cost.memory)}{free}",
        f"disk    at most {size(cost.disk)}, {size(cost.disk_free)} free",
    ]
    return "\n".join(lines + [f"Warning: {warning}" for warning in cost.warnings])


def cost_line(catalog: Catalog, spec: "jobs.Spec") -> str:
    """The same in one line, for the first device."""
    cost = jobs.cost_of(catalog, spec, jobs.devices()[0])
    if cost is None:
        return ""
    warning = "".join(f" ! {one}" for one in cost.warnings)
    return f"at most {size(cost.memory)} of memory, {size(cost.disk)} of disk{warning}"


def size(count: int) -> str:
    """Bytes as `3.2 GB` or `45.0 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
