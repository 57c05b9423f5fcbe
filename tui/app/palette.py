"""The command palette (ctrl+p): every active key, by its description."""

from functools import partial
from typing import Any

from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider


class Keys(Provider):
    """The active bindings as commands."""

    def _commands(self) -> list[tuple[str, str, Any]]:
        """(description, key, callback) per binding."""
        hits: dict[str, tuple[str, str, Any]] = {}
        for active in self.screen.active_bindings.values():
            binding: Binding = active.binding
            if not binding.description or not active.enabled or binding.action.startswith("app.command"):
                continue
            text = binding.tooltip or binding.description
            key = self.app.get_key_display(binding)
            hits.setdefault(text, (text, key, partial(self.app.run_action, binding.action, active.node)))
        return list(hits.values())

    async def discover(self) -> Hits:
        for text, key, do in self._commands():
            yield DiscoveryHit(text, do, help=key)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for text, key, do in self._commands():
            score = matcher.match(text)
            if score > 0:
                yield Hit(score, matcher.highlight(text), do, help=key)
