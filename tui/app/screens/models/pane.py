"""The models pane."""

from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType

from .....store.errors import InputError
from ....cli_equivalent import command
from ....presentation.format import format_count, format_size, format_time, plural
from ...data.models import MODEL, MODELS, ModelDetail, ModelRow
from ...data.rows import Key
from ...widgets.detail import fields, title
from ...widgets.row_lines import Cells, Column
from ..base.pane import ModelSelected, Pane, Parts
from .anatomy import draw_anatomy


class ModelsPane(Pane):
    """The models, each with its anatomy."""

    heading, noun = "Models", "model"
    listing, detail_listing = MODELS, MODEL
    columns = (
        Column("name"),
        Column("architecture", 18, drop=2),
        Column("layers", 6, drop=1),
        Column("params", 7),
        Column("dtype", 8, drop=3),
        Column("head", 10),
    )
    empty = "No models yet: press a to add one. The model `starter` is small and needs no hub."
    write_actions = frozenset({"add", "trace", "remove"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "add", "add model", tooltip="add a model: hub id, folder, .gguf or starter"),
        Binding("t", "trace", "trace", tooltip="start a trace of this model"),
        Binding("D", "remove", "remove", show=False, tooltip="remove this model and all its data"),
    ]

    def cells(self, data: ModelRow) -> Cells:
        layers = str(data.layers) if data.layers is not None else "?"
        return (
            data.name, data.architecture, layers, format_count(data.parameters), data.dtype, data.head or ""
        )  # fmt: skip

    def parts(self, data: ModelDetail) -> Parts:
        return _parts(data)

    def show_detail(self, *, is_new_row: bool) -> None:
        row = self.selected(ModelRow)
        if row is not None and is_new_row:
            self.post_message(ModelSelected(row.name))
        super().show_detail(is_new_row=is_new_row)

    def cli_equivalent(self, key: Key) -> str:
        return super().cli_equivalent(self.row_name())

    def row_name(self) -> str:
        row = self.selected(ModelRow)
        return row.name if row is not None else super().row_name()

    def action_add(self) -> None:
        from .form import ModelForm

        self.open_form(ModelForm(self.catalog))

    def action_trace(self) -> None:
        from ..traces.form import TraceForm

        self.open_form(TraceForm(self.catalog, self.model))

    def action_remove(self) -> None:
        data = self.load_detail()
        if not isinstance(data, ModelDetail):
            raise InputError("this row is unreadable: run retcon doctor")
        catalog, name = self.catalog, data.name
        freed = "" if data.source_kind == "folder" else f", {format_size(data.size)} of weights"
        question = (
            f"Remove {name}, its {plural(data.revisions - 1, 'revision')}, {plural(data.traces, 'trace')} and "
            f"{plural(data.covariances, 'covariance')}{freed}?\nThis cannot be undone."
        )

        def remove() -> str:
            from ....actions.model import remove_model

            remove_model(catalog, name)
            return f"Removed {name}."

        self.confirm(question, "Remove", command("model", "remove", name), remove)


def _parts(model: ModelDetail) -> Parts:
    anatomy = model.anatomy
    block = f"{anatomy.get('blocks', '?')}.N"
    revisions = f"{plural(model.revisions - 1, 'revision')} after the base"
    results = f"{plural(model.traces, 'trace')}, {plural(model.covariances, 'covariance')}"
    matrix = f"{block}.{anatomy.get('matrix')}.weight ({anatomy.get('matrix_kind')}, keys of width"
    tied = ", tied to the embedding" if anatomy.get("tied_head") else ""
    return [
        title(model.name),
        fields(
            ("source", f"{model.source} ({model.source_kind})"),
            ("commit", model.commit),
            ("folder", model.path),
            ("weights", f"{model.parameters:,} parameters, {model.dtype}, {format_size(model.size)}"),
            ("fingerprint", f"{model.fingerprint[:32]}…"),
            ("memory", _memory(model)),
            ("head", f"{model.head}  {model.head_message or ''}" if model.head else None),
            ("remote code", "runs Python code of the model repo" if model.trust_remote_code else None),
            ("added", f"{format_time(model.created)} UTC"),
            ("catalog", f"{revisions}, {results}"),
        ),
        "",
        title("Anatomy"),
        *draw_anatomy(anatomy),
        "",
        fields(
            ("architecture", anatomy.get("architecture")),
            ("layers", f"{anatomy.get('layers')} of width {anatomy.get('width')}"),
            ("embedding", anatomy.get("embedding")),
            ("attention", f"{block}.{anatomy.get('attention')}"),
            ("MLP", f"{block}.{anatomy.get('mlp')}"),
            ("edited matrix", f"{matrix} {anatomy.get('key_width')})"),
            ("norm after MLP", anatomy.get("mlp_norm")),
            ("final norm", anatomy.get("final_norm")),
            ("head", f"{anatomy.get('head')}{tied}"),
            ("attn and MLP", "parallel" if anatomy.get("parallel") else "sequential"),
        ),
    ]


def _memory(model: ModelDetail) -> str:
    """Memory to load the model, and free memory of this machine."""
    free = memory_free()
    note = "" if free is None else f"; {format_size(free)} free on this machine"
    return f"{format_size(model.size)} to load{note}"


def memory_free() -> int | None:
    """Bytes of memory that programs can still use; None where the system does not report it.

    Not by psutil: importing it would delay the first screen.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
