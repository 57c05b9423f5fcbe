"""Options that many commands share, and values with a form of their own."""

import re
from collections.abc import Callable
from typing import Any

import click

from ...engine.jobs.devices import parse_ray_device
from ...engine.tracing.rules import KINDS
from ...store.catalog.catalog import Catalog

Command = Callable[..., Any]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, all else on stderr."
)


# What a row's number or a seed may be: more than SQLite or NumPy hold is a slip of the keyboard.
ROW_ID = click.IntRange(1, 2**63 - 1)
SEED = click.IntRange(0, 2**32 - 1)
_MOST_LAYERS = 10_000


def job_options(command: Command) -> Command:
    """`--json`, `--detach` and `--device` for a command that starts a job."""
    command = click.option(
        "--device",
        help="cpu, cuda:0, ..; cuda:0+cuda:1 spreads a large model; by default the first GPU, else the CPU.",
    )(command)
    command = click.option("--detach", is_flag=True, help="Do not wait: print the job's id and return.")(
        command
    )
    return json_option(command)


def cluster_options(command: Command) -> Command:
    """`--on` and `--threads` for a command whose shards several machines can do."""
    command = click.option(
        "--threads",
        type=click.IntRange(1),
        help="Of each worker on Ray, so many CPUs it takes; by default as many as a job on this machine uses.",
    )(command)
    return click.option(
        "--on",
        metavar="ray[:ADDRESS]",
        help="Work on the nodes of the Ray at HOST:PORT, or 'auto': the one that this machine is a node of; without "
        "address on one of this job's own, on this machine.",
    )(command)


def place(device: str | None, on: str | None, threads: int | None, *, estimate: bool = False) -> str | None:
    """Where a job goes: a device of this machine, or a Ray.

    Raises:
        click.UsageError: both were asked for, or what only one of them has.
        store.errors.InputError: see engine.jobs.devices.parse_ray_device.
    """
    if on is None:
        if threads is not None:
            raise click.UsageError("--threads are those of a worker on Ray: it needs --on")
        return device
    if device is not None:
        raise click.UsageError(
            "--on and --device (or --devices) exclude each other: Ray gives out its own devices"
        )
    if estimate:
        raise click.UsageError("--estimate measures on this machine: leave --on out")
    return parse_ray_device(on)


estimate_option = click.option(
    "--estimate", is_flag=True, help="Tell what it will cost in memory, disk and time; do not start it."
)


def open_catalog() -> Catalog:
    """The user's catalog, made and migrated if needed."""
    return Catalog.open()


class Layers(click.ParamType):
    """`5`, `3-8`, `1,4,7-9`: a list of layer numbers."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        layers: list[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
            if not match or not int(match[1]) <= int(match[2] or match[1]) < _MOST_LAYERS:
                self.fail(f"{value!r} is no list of layers; write 5, 3-8 or 1,4,7-9", param, ctx)
            layers += range(int(match[1]), int(match[2] or match[1]) + 1)
        return sorted(set(layers))


class Kinds(click.ParamType):
    """`hidden,mlp,attn,severed-mlp,severed-attn`: kinds of trace."""

    name = "kinds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        kinds = [part.strip() for part in value.split(",") if part.strip()]
        if not kinds or any(kind not in KINDS for kind in kinds):
            self.fail(f"{value!r} is no list of kinds; the kinds are {', '.join(KINDS)}", param, ctx)
        return [kind for kind in KINDS if kind in kinds]


class Bytes(click.ParamType):
    """`500MB`, `5GB`, `1GiB`: a number of bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", value.strip(), re.IGNORECASE)
        size = 0
        if match:
            unit = 1024 if match[3] else 1000
            size = round(float(match[1]) * unit ** " KMGT".index(match[2].upper() or " "))
        if not 1 <= size < 2**63:
            self.fail(f"{value!r} is no size; write 500MB or 5GB", param, ctx)
        return size
