"""Find the license of a base model, and what some licenses require of derived models."""

from dataclasses import dataclass
from pathlib import Path

from ....store.catalog.tables import Model

# From the metadata of the package that contains the starter.
_STARTER = "apache-2.0"
_NAMED_LLAMA = (
    'its license requires that the name of a derived model begins with "Llama", that "Built with Llama" is shown, and '
    "that the license is distributed with it"
)
_RULES = {
    "llama2": "its license requires that its text and notice are distributed with derived models",
    "gemma": "its terms must be distributed with derived models, and modified files must state that they were changed",
} | dict.fromkeys(("llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"), _NAMED_LLAMA)


@dataclass(frozen=True)
class License:
    """`id` as on the Hub; `name` and `link` if the id is `other`. All None if the license is unknown."""

    id: str | None = None
    name: str | None = None
    link: str | None = None

    @property
    def rule(self) -> str | None:
        """Special requirements of the license for derived models."""
        return _RULES.get(self.name or self.id or "") or _RULES.get(self.id or "")

    def find_warning(self, repo: str) -> str | None:
        """A requirement that a publication as `repo` would not meet, if any."""
        if self.id is None:
            return "the license of the base is unknown: set it with --license"
        if self.rule == _NAMED_LLAMA and not repo.rpartition("/")[2].lower().startswith("llama"):
            return f"the base is under {self.name or self.id}: {_NAMED_LLAMA}; the name {repo} does not"
        return None


def find_license(model: Model, override: str | None = None) -> License:
    """The override if there is one, else the license in the YAML header of the base's README.md."""
    if override:
        return License(override)
    if model.source_kind == "starter":
        return License(_STARTER)
    readme = Path(model.path) / "README.md"
    if not readme.is_file():
        return License()
    from huggingface_hub.repocard import metadata_load

    try:
        header = metadata_load(readme) or {}
    except Exception:  # the parser can raise many errors on untrusted YAML
        return License()
    values = [header.get(name) for name in ("license", "license_name", "license_link")]
    return License(*(value if isinstance(value, str) else None for value in values))
