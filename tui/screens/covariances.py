"""The covariances pane: second moments of keys, which the editing methods need."""

from rich.text import Text

from ..data.covariances import CovarianceView, covariance, list_covariances
from ..data.rows import Hurt
from ..plain import cut
from ..twin import command
from ..widgets.detail import fields, title
from ..widgets.rows import Column, Row
from .pane import Pane, Parts
from .show import count, when


class CovariancesPane(Pane):
    """The covariances, each with all that decides its value."""

    heading = "Covariances"
    columns = (
        Column("id", 4),
        Column("model"),
        Column("layer", 5),
        Column("texts", 16, drop=1),
        Column("tokens", 7),
        Column("state", 10),
        Column("when", 16, drop=2),
    )
    empty = "No covariances yet: an edit collects the one that it needs, or run `retcon covariance run`."

    def read_rows(self) -> list[Row]:
        return [_row(row) for row in list_covariances(self.catalog)]

    def show_detail(self, key: str | None, *, fresh: bool) -> None:
        self.show_text(covariance(self.catalog, int(key)) if key is not None else None, _parts, fresh=fresh)

    def twin(self, key: str) -> str:
        return command("covariance", "show", key)


def _row(row: CovarianceView | Hurt) -> Row:
    if isinstance(row, Hurt):
        return Row(str(row.id), (str(row.id), Text("damaged", style="red")), hurt=True)
    state = "✓ finished" if row.finished else "◐ partial"
    cells = (str(row.id), row.model, str(row.layer), row.texts, count(row.tokens), state, when(row.created))
    return Row(str(row.id), cells)


def _parts(row: CovarianceView) -> Parts:
    return [
        title(f"Covariance {row.id}: {row.model}, layer {row.layer}"),
        fields(
            ("what", f"E[k kT] of the keys of {row.module}, {row.width} x {row.width}"),
            ("texts", row.texts),
            ("texts' version", cut(row.texts_revision, 33)),
            (
                "seen",
                f"{row.tokens:,} tokens of {row.documents:,} documents, cut at {row.max_length} tokens",
            ),
            ("state", "finished" if row.finished else "partial: a job can go on from here"),
            ("model ran in", row.dtype),
            ("seed", row.seed),
            ("file", f"{row.artifact[:32]}… ({count(row.size)}B)"),
            ("made", f"{when(row.created)} UTC"),
        ),
    ]
