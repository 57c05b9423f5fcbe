"""The covariances pane: second moments of keys, which the editing methods need."""

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from .....store.catalog.catalog import Catalog
from ....presentation.format import format_count, format_size, format_time
from ....presentation.text import cut, sanitize_lines
from ....presentation.wording import convergence_lines, describe_convergence
from ...data.covariances import COVARIANCES, CovarianceView
from ...widgets.detail import fields, title
from ...widgets.row_lines import Cells, Column
from ..base.pane import Pane, Parts, RunAction

if TYPE_CHECKING:
    from .forms import CovarianceFile


class CovariancesPane(Pane):
    """The covariances, each with the settings that determine its value."""

    heading, noun = "Covariances", "covariance"
    listing = COVARIANCES
    columns = (
        Column("id", 6),
        Column("model"),
        Column("layer", 5),
        Column("texts", 16, drop=1),
        Column("tokens", 7),
        Column("change", 7),
        Column("when", 16, drop=2),
    )
    empty = "No covariances yet: an edit collects its covariance, or run `retcon covariance run`."
    write_actions = frozenset({"extend", "import"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "extend", "extend", tooltip="add more text to this covariance"),
        Binding("i", "import", "import", tooltip="import a covariance from a file"),
    ]

    def cells(self, data: CovarianceView) -> Cells:
        last = f"{data.curve[-1]['mean']:.2g}" if data.curve else ""
        tokens, created = format_count(data.tokens), format_time(data.created)
        return str(data.id), data.model, str(data.layer), data.texts, tokens, last, created

    def parts(self, data: CovarianceView) -> Parts:
        return _parts(data)

    def action_extend(self) -> None:
        from ....actions.covariance import build_covariance_extension
        from ....actions.values import MAX_ID
        from .forms import ExtendForm

        views = [row.value for row in self.rows.selected_rows if isinstance(row.value, CovarianceView)]
        if not views:
            return
        ids = [view.id for view in views]
        build_covariance_extension(self.catalog, ids, MAX_ID)
        self.open_form(ExtendForm(self.catalog, ids, max(view.tokens for view in views)))

    def action_import(self) -> None:
        from .forms import ImportForm

        catalog, form = self.catalog, ImportForm(self.model)

        def start(file: "CovarianceFile | None") -> None:
            if file is not None:
                self.post_message(RunAction(form.cli_equivalent(file), lambda: _import(catalog, file)))

        self.app.push_screen(form, start)


def _import(catalog: Catalog, file: "CovarianceFile") -> str:
    # Imported here because it loads NumPy, which would slow the start of the app.
    from .....store.exchange.covariance import import_covariance

    return f"covariance {import_covariance(catalog, file.file, file.model, file.layer).id} imported"


def _parts(row: CovarianceView) -> Parts:
    return [
        title(f"Covariance {row.id}: {row.model}, layer {row.layer}"),
        fields(
            ("matrix", f"E[k kT] of the keys of {row.module}, {row.width} x {row.width}"),
            ("texts", row.texts),
            ("version of texts", cut(row.texts_revision, 33)),
            ("amount", _format_amount(row)),
            ("convergence", describe_convergence(row.curve)),
            ("origin", _origin(row)),
            ("model dtype", row.dtype),
            ("base", f"{row.fingerprint[:12]}, tokenizer {(row.tokenizer or 'unknown')[:12]}"),
            ("seed", "-" if row.seed is None else row.seed),
            ("file", f"{row.artifact[:32]}… ({format_size(row.size)})"),
            ("created", f"{format_time(row.created)} UTC"),
        ),
        Text(sanitize_lines("\n" + "\n".join(convergence_lines(row.curve))) if row.curve else ""),
    ]


def _format_amount(row: CovarianceView) -> str:
    text = f"{row.tokens:,} tokens"
    if row.documents is not None:
        text += f" of {row.documents:,} documents"
    return text if row.max_length is None else f"{text}, cut at {row.max_length} tokens"


def _origin(row: CovarianceView) -> str:
    if "imported" in row.origin:
        return f"{row.origin['imported']} ({row.origin['format']})"
    return f"covariance {row.origin['extends']}, extended" if "extends" in row.origin else "collected here"
