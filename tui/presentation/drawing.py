"""What every picture has in common: a figure of its own, text as it is, a file that is whole and the same each time.

matplotlib is imported inside the functions: it takes longer than all the rest of a command's start.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...store.atomic_files import write_whole
from ...store.errors import InputError
from .text import sanitize, token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")


def blank(size: tuple[float, float]) -> "Figure":
    """A figure of its own: no pyplot, so no window and no state that another drawing could change."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label(text: str) -> str:
    """Text of a model as it is: matplotlib would read two dollar signs as mathematics."""
    return token_label(sanitize(text)).replace("$", r"\$")


def check_path(path: Path) -> None:
    """Refuse a file that no picture can be written to.

    Raises:
        InputError: the suffix is none of .png, .pdf, .svg, or the folder is not there.
    """
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise InputError(f"{path} cannot be drawn: give a name that ends in .png, .pdf or .svg.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be drawn: there is no folder {path.absolute().parent}.")


def save(figure: "Figure", path: Path) -> None:
    """Write the figure, whole or not at all.

    Raises:
        CatalogError: the file cannot be written.
    """
    form = path.suffix.lower().removeprefix(".")
    # No dates: the same trace gives the same file.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with _drawn():
        write_whole(path, lambda partial: figure.savefig(partial, format=form, metadata=metadata))


def svg(figure: "Figure") -> bytes:
    """The figure as an SVG that needs no font of its reader: letters are shapes."""
    into = io.BytesIO()
    with _drawn(letters="path"):
        figure.savefig(into, format="svg", metadata={"Date": None})
    return into.getvalue()


@contextmanager
def _drawn(letters: str = "none") -> Iterator[None]:
    """Settings of drawing: no random ids; letters of an SVG as text (`none`) or as shapes (`path`)."""
    import matplotlib

    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.hashsalt": "retcon", "svg.fonttype": letters}),
    ):
        # A token in a script that the font lacks is drawn as a box; nothing else would be gained by saying so.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield
