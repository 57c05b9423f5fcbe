"""The license of a base as its own card tells it, and what some licenses ask of a model that is derived from it."""

from dataclasses import dataclass
from pathlib import Path

from ....store.catalog.tables import Model

# The package that carries the starter names it in its metadata.
_STARTER = "apache-2.0"
_NAMED_LLAMA = (
    'its license asks that the name of a derived model begins with "Llama", that "Built with Llama" is shown, and that '
    "the license goes with it"
)
_RULES = {
    "llama2": "its license asks that a copy of the Llama 2 license and its notice go with derived models",
    "llama3": _NAMED_LLAMA,
    "llama3.1": _NAMED_LLAMA,
    "llama3.2": _NAMED_LLAMA,
    "llama3.3": _NAMED_LLAMA,
    "llama4": _NAMED_LLAMA,
    "gemma": "its terms ask that they go with derived models, and that modified files say that they were changed",
}


@dataclass(frozen=True)
class License:
    """`id` as the Hub writes it; `name` and `link` where the id is `other`. All None if the base does not tell."""

    id: str | None = None
    name: str | None = None
    link: str | None = None

    @property
    def rule(self) -> str | None:
        """What the license asks of a derived model beyond the usual, in words."""
        return _RULES.get(self.name or self.id or "") or _RULES.get(self.id or "")

    def warning(self, repo: str) -> str | None:
        """What a publisher must see to; None if nothing is known."""
        if self.id is None:
            return "the license of the base is not known here: give it with --license"
        if self.rule == _NAMED_LLAMA and not repo.rpartition("/")[2].lower().startswith("llama"):
            return f"the base is under {self.name or self.id}: {_NAMED_LLAMA}; {repo} does not begin so"
        return None


def find_license(model: Model, given: str | None = None) -> License:
    """The license that was given, or the one that the base's README.md tells in its header."""
    if given:
        return License(given)
    if model.source_kind == "starter":
        return License(_STARTER)
    readme = Path(model.path) / "README.md"
    if not readme.is_file():
        return License()
    from huggingface_hub.repocard import metadata_load

    try:
        header = metadata_load(readme) or {}
    except Exception:  # whatever the YAML of a stranger makes its parser raise
        return License()
    found = [header.get(name) for name in ("license", "license_name", "license_link")]
    return License(*(one if isinstance(one, str) else None for one in found))
