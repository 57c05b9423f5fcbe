"""The second step of publishing: files, sizes and the card, which can be edited before publishing."""

import re
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static, TextArea

from .....engine.jobs.publication.preview import Preview
from .....engine.jobs.specs import PublishSpec
from ....cli_equivalent import publish
from ....presentation.format import format_size
from ....presentation.text import sanitize

_DIGEST = re.compile(r"[0-9a-f]{64}")


class PublishPreview(ModalScreen[PublishSpec | None]):
    """Dismissed with the spec to submit, including an edited card, or with None.

    To overwrite a repo that this catalog has published to, the user must type its name.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+c", "cancel", "cancel", priority=True),
        Binding("ctrl+s", "send", "publish", priority=True),
        Binding("ctrl+d", "dry_run", "dry run", priority=True),
    ]

    def __init__(self, spec: PublishSpec, shown: Preview, overwrites: str | None, *, token: bool) -> None:
        super().__init__()
        self._spec, self._shown, self._overwrites, self._token = spec, shown, overwrites, token

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._describe(), id="summary")
            yield TextArea(self._shown.card, id="card", compact=True)
            if self._overwrites is not None:
                line = Input(id="name", placeholder=f"type {self._spec.repo} to overwrite it", compact=True)
                line.cursor_blink = False
                yield line
            yield Static(id="verdict", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", action="screen.cancel", compact=True)
                yield Button("Dry run (ctrl+d)", action="screen.dry_run", compact=True)
                yield Button("Publish (ctrl+s)", action="screen.send", compact=True)

    def _describe(self) -> Text:
        spec, shown = self._spec, self._shown
        visibility = "PUBLIC if new" if spec.public else "private if new"
        target = f"{spec.model}@{spec.revision} as {spec.export_kind} to {sanitize(spec.repo)} ({visibility})"
        files = ", ".join(
            f"{_DIGEST.sub(_shortened, sanitize(name))} {format_size(size)}"
            for name, size in shown.sizes.items()
        )
        warnings = [] if self._token else ["No token is saved: run `retcon hub login` first"]
        if self._overwrites is not None:
            warnings.append(f"{spec.repo} contains revision {self._overwrites} of this catalog")
        if shown.rolls_back_from is not None:
            warnings.append(f"Rolls back from {shown.rolls_back_from}; the card says so")
        warnings += [f"! {warning}" for warning in shown.warnings]
        text = Text.assemble((target, "bold"), f"\n{format_size(sum(shown.sizes.values()))}: {files}")
        for warning in warnings:
            text.append(f"\n{sanitize(warning)}", style="yellow")
        return text

    def on_mount(self) -> None:
        self.query_one("#cancel").focus()
        self._show_message("The repo will show the card below. Tab moves to it; you can edit it.")

    def action_cancel(self) -> None:
        self.dismiss(None)

    def action_dry_run(self) -> None:
        self.dismiss(replace(self._edited_spec(), dry_run=True))

    def action_send(self) -> None:
        if self._overwrites is not None and self.query_one("#name", Input).value.strip() != self._spec.repo:
            self._show_message(f"✗ to overwrite it, type {self._spec.repo}", style="bold red")
            self.query_one("#name").focus()
            self.app.bell()
            return
        self.dismiss(self._edited_spec())

    def _edited_spec(self) -> PublishSpec:
        card = self.query_one("#card", TextArea).text
        return replace(self._spec, card=None if card == self._shown.card else card)

    def _show_message(self, text: str, style: str = "dim") -> None:
        cli_equivalent = Text(f"\n$ {sanitize(publish(self._spec))}", style="green")
        self.query_one("#verdict", Static).update(Text(text, style=style).append_text(cli_equivalent))


def _shortened(digest: re.Match[str]) -> str:
    return f"{digest[0][:8]}…"
