"""Options that many commands share, and their types."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ...engine.jobs.devices import CPU
from ...store.catalog.catalog import Catalog
from ...store.errors import InputError
from ..actions.values import MAX_ID, MAX_SEED, parse_integer, parse_kinds, parse_layers, parse_size
from ..command_table import COMMANDS

Command = Callable[..., Any]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, everything else on stderr."
)
estimate_option = click.option(
    "--estimate", is_flag=True, help="Print the memory, disk and time that the job needs; do not start it."
)


@dataclass(frozen=True)
class JobOptions:
    """How a command starts its job: where it runs, whether to wait for it, and how to print the result."""

    as_json: bool = False
    detach: bool = False
    device: str | None = None
    on: str | None = None
    threads: int | None = None
    estimate: bool = False

    def on_cpu(self) -> "JobOptions":
        """The same options with the CPU as the default device, for jobs that need no GPU."""
        return replace(self, device=self.device or CPU)


def job_options(command: Command) -> Command:
    """Add `--json`, `--detach` and `--device`, and pass them to the command as one JobOptions named `job_options`.

    It includes `--on`, `--threads` and `--estimate` if the command has `cluster_options` and `estimate_option`.
    """

    @functools.wraps(command)
    def collect(**values: Any) -> Any:
        names = [name for name in JobOptions.__dataclass_fields__ if name in values]
        return command(job_options=JobOptions(**{name: values.pop(name) for name in names}), **values)

    device = click.option(
        "--device",
        help="cpu, cuda:0, ..; cuda:0+cuda:1 splits a large model. Default: the first GPU, else the CPU.",
    )
    detach = click.option("--detach", is_flag=True, help="Print the job's id and return without waiting.")
    return json_option(detach(device(collect)))


def combine(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """One decorator for several options, in the order of the help."""
    return lambda command: functools.reduce(lambda inner, add: add(inner), reversed(options), command)


# For a command whose work several machines can share.
cluster_options = combine(
    click.option(
        "--on", metavar="ray[:ADDRESS]",
        help="Run on a Ray cluster. ADDRESS is HOST:PORT, or 'auto' for the cluster that this machine belongs to. "
        "Without an address, the job starts a cluster on this machine.",
    ),
    click.option(
        "--threads", type=click.IntRange(1),
        help="CPU threads of each Ray worker. Default: as many as a job on this machine uses.",
    ),
)  # fmt: skip


def open_catalog() -> Catalog:
    """Open the user's catalog. It is created or migrated if needed."""
    return Catalog.open()


class _Parsed(click.ParamType):
    """A value that a function of `actions.values` parses."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


ROW_ID = _Parsed("id", lambda text: parse_integer("an id", text, 1, MAX_ID))
SEED = _Parsed("seed", lambda text: parse_integer("a seed", text, 0, MAX_SEED))
LAYERS = _Parsed("layers", parse_layers)
KIND_LIST = _Parsed("kinds", parse_kinds)
SIZE = _Parsed("bytes", parse_size)
BASELINE_LIST = _Parsed("text", lambda text: [part.strip() for part in text.split(",") if part.strip()])

id_argument = click.argument("id", type=ROW_ID)
target_argument = click.argument("model", metavar="MODEL[@REV]")
message_option = click.option("-m", "--message", default="", help="A message for the history.")
hparams_option = click.option(
    "--hparams", "hparams_file", type=_Parsed("path", lambda text: str(Path(text).absolute())),
    help="Settings of the method: JSON of the published code, or YAML of EasyEdit.",
)  # fmt: skip
covariance_texts_option = click.option(
    "--texts", default="shipped", show_default=True,
    help="Texts to collect a covariance from if a layer has none.",
)  # fmt: skip
seed_option = click.option("--seed", type=SEED, default=1, show_default=True, help="Seed of the method.")


def edit_options(method: str) -> Callable[[Command], Command]:
    """Add the options of an edit, which are fields of its spec. `method` is the default method."""
    layers = click.option(
        "--layers", "--layer", "hparams", type=LAYERS,
        callback=lambda ctx, option, layers: {} if layers is None else {"layers": layers},
        help="5, 3-8 or 1,4,7. Default: the layers of the model's preset.",
    )  # fmt: skip
    return combine(method_option(method), layers, hparams_option, covariance_texts_option, seed_option)


def new_group(name: str) -> click.Group:
    """The group of a command with verbs."""
    return click.Group(name, help=COMMANDS[name].help)


def method_option(default: str) -> Callable[[Command], Command]:
    """`--method` with the names of the editing methods in its help."""
    from ...engine.edits import METHODS

    return click.option("--method", default=default, show_default=True, help=f"{', '.join(METHODS)}.")
