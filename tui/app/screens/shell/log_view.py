"""A job's log, whole: followed as it grows, searched, wrapped or not."""

from pathlib import Path
from typing import ClassVar

from rich.console import OverflowMethod
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from ....presentation.format import format_path
from ....presentation.text import sanitize
from ...data.jobs import LogTail
from ...widgets.detail import Detail
from ...widgets.prompt import Prompt

_LOOK_SECONDS = 0.3


class LogView(ModalScreen[None]):
    """The end of the log is followed until one scrolls up; `f` follows again."""

    heading = "A log"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,backspace,L", "dismiss", "back"),
        Binding("f", "follow", "follow", tooltip="follow the end, or stay here"),
        Binding("w", "wrap", "wrap", tooltip="wrap long lines, or cut them"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("n", "find(1)", "next", key_display="n/N"),
        Binding("N", "find(-1)", "found before", show=False),
    ]

    def __init__(self, path: Path, title: str) -> None:
        super().__init__()
        self._tail = LogTail(path)
        self._title = title
        self._following, self._wrapping = True, True
        # The lines as they are drawn, but for those in which something was found.
        self._drawn: dict[str, Text] = {}
        self._sought = ""
        self._at: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(
                Text(
                    f"{self._title}: {format_path(self._tail.path)}",
                    style="bold",
                    no_wrap=True,
                    overflow="ellipsis",
                )
            )
            yield Detail()
            yield Static(id="state", markup=False)
            yield Prompt()

    def on_mount(self) -> None:
        self.query_one(Detail).focus()
        self._look()
        self._draw()
        self.set_interval(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if self._tail.read():
            self._draw()

    def _draw(self) -> None:
        detail = self.query_one(Detail)
        # Who scrolled up reads: what comes is added below, and moves nothing.
        following = self._follows
        lines = []
        known, self._drawn = self._drawn, {}
        for number, line in enumerate(self._tail.lines):
            hit = bool(self._sought) and self._sought.lower() in line.lower()
            text = known.get(line) if not hit else None
            if text is None:
                overflow: OverflowMethod = "fold" if self._wrapping else "ellipsis"
                text = Text(sanitize(line), no_wrap=not self._wrapping, overflow=overflow)
            if not hit:
                self._drawn[line] = text
            else:
                text.highlight_words([self._sought], "bold reverse", case_sensitive=False)
                if number == self._at:
                    text.stylize("underline")
            lines.append(text)
        detail.show(lines or [Text("nothing was written yet", style="dim")])
        if following:
            detail.scroll_end(animate=False)
        self._show_message()

    def _show_message(self) -> None:
        parts = [
            f"{len(self._tail.lines):,} lines",
            "follows its end" if self._follows else "stays (f follows)",
        ]
        if self._sought:
            found = self._found()
            which = f"{found.index(self._at) + 1} of " if self._at in found else ""
            parts.append(f"/{self._sought}: {which}{len(found)} found")
        self.query_one("#state", Static).update(Text(" · ".join(parts), style="dim"))

    @property
    def _follows(self) -> bool:
        """Whether what comes is scrolled to: not while somebody has scrolled up."""
        detail = self.query_one(Detail)
        return self._following and detail.scroll_y >= detail.max_scroll_y

    def _found(self) -> list[int | None]:
        sought = self._sought.lower()
        return [number for number, line in enumerate(self._tail.lines) if sought in line.lower()]

    def action_follow(self) -> None:
        self._following = not self._follows
        if self._following:
            self.query_one(Detail).scroll_end(animate=False)
        self._draw()

    def action_wrap(self) -> None:
        self._wrapping = not self._wrapping
        self._drawn = {}
        self._draw()

    def action_search(self) -> None:
        self.query_one(Prompt).open("/", self._sought, (), "words to look for")

    @on(Prompt.Cancelled)
    def _left(self, event: Prompt.Cancelled) -> None:
        event.stop()
        self.query_one(Prompt).close()
        self.query_one(Detail).focus()

    @on(Prompt.Submitted)
    def _given(self, event: Prompt.Submitted) -> None:
        event.stop()
        self._sought, self._at = event.text, None
        self.query_one(Prompt).close()
        self.query_one(Detail).focus()
        self.action_find(1)

    def action_find(self, by: int) -> None:
        found = self._found() if self._sought else []
        if found:
            before = found.index(self._at) if self._at in found else -1 if by > 0 else 0
            self._at = found[(before + by) % len(found)]
            self._following = False
        self._draw()
        if self._at is not None:
            self.query_one(Detail).show_part(self._at)
