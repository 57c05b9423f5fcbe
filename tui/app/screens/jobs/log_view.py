"""The complete log of a job, with follow, search and wrap."""

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
from ...widgets.detail import Detail, one_line
from ...widgets.prompt import Prompt

_POLL_SECONDS = 0.3


class LogView(ModalScreen[None]):
    """Follows the end of the log until the user scrolls up; `f` follows again."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,backspace,L", "dismiss", "back"),
        Binding("f", "follow", "follow", tooltip="follow the end, or stop following"),
        Binding("w", "wrap", "wrap", tooltip="wrap or cut long lines"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("n", "find(1)", "next", key_display="n/N"),
        Binding("N", "find(-1)", "previous match", show=False),
    ]

    def __init__(self, path: Path, title: str) -> None:
        super().__init__()
        self._tail = LogTail(path)
        self._title = title
        self._follow, self._wrap = True, True
        # Drawn lines without search matches.
        self._drawn: dict[str, Text] = {}
        self._search_text = ""
        self._match: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(one_line(f"{self._title}: {format_path(self._tail.path)}", "bold"))
            yield Detail()
            yield Static(id="state", markup=False)
            yield Prompt()

    def on_mount(self) -> None:
        self.query_one(Detail).focus()
        self._poll()
        self._draw()
        self.set_interval(_POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        if self._tail.read():
            self._draw()

    def _draw(self) -> None:
        detail = self.query_one(Detail)
        # After the user has scrolled up, new lines appear below without scrolling.
        is_following = self._is_following
        lines = []
        known, self._drawn = self._drawn, {}
        for number, line in enumerate(self._tail.lines):
            is_match = bool(self._search_text) and self._search_text.lower() in line.lower()
            text = known.get(line) if not is_match else None
            if text is None:
                overflow: OverflowMethod = "fold" if self._wrap else "ellipsis"
                text = Text(sanitize(line), no_wrap=not self._wrap, overflow=overflow)
            if not is_match:
                self._drawn[line] = text
            else:
                text.highlight_words([self._search_text], "bold reverse", case_sensitive=False)
                if number == self._match:
                    text.stylize("underline")
            lines.append(text)
        detail.show(lines or [Text("the log is empty", style="dim")])
        if is_following:
            detail.scroll_end(animate=False)
        self._show_message()

    def _show_message(self) -> None:
        parts = [
            f"{len(self._tail.lines):,} lines",
            "following the end" if self._is_following else "not following (f follows)",
        ]
        if self._search_text:
            matches = self._matches()
            which = f"{matches.index(self._match) + 1} of " if self._match in matches else ""
            parts.append(f"/{self._search_text}: {which}{len(matches)} found")
        self.query_one("#state", Static).update(Text(" · ".join(parts), style="dim"))

    @property
    def _is_following(self) -> bool:
        """Whether to scroll to new lines; not after the user has scrolled up."""
        detail = self.query_one(Detail)
        return self._follow and detail.scroll_y >= detail.max_scroll_y

    def _matches(self) -> list[int | None]:
        text = self._search_text.lower()
        return [number for number, line in enumerate(self._tail.lines) if text in line.lower()]

    def action_follow(self) -> None:
        self._follow = not self._is_following
        if self._follow:
            self.query_one(Detail).scroll_end(animate=False)
        self._draw()

    def action_wrap(self) -> None:
        self._wrap = not self._wrap
        self._drawn = {}
        self._draw()

    def action_search(self) -> None:
        self.query_one(Prompt).open("/", self._search_text, (), "text to search for")

    @on(Prompt.Cancelled)
    def _on_cancelled(self) -> None:
        self.query_one(Prompt).close()
        self.query_one(Detail).focus()

    @on(Prompt.Submitted)
    def _on_submitted(self, event: Prompt.Submitted) -> None:
        self._search_text, self._match = event.text, None
        self.query_one(Prompt).close()
        self.query_one(Detail).focus()
        self.action_find(1)

    def action_find(self, by: int) -> None:
        matches = self._matches() if self._search_text else []
        if matches:
            current = matches.index(self._match) if self._match in matches else -1 if by > 0 else 0
            self._match = matches[(current + by) % len(matches)]
            self._follow = False
        self._draw()
        if self._match is not None:
            self.query_one(Detail).show_part(self._match)
