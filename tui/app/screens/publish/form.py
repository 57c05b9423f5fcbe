"""The first step of publishing: which revision, as what, and where to."""

from .....engine.jobs.specs import PublishSpec
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from ....cli_equivalent import publish
from ...data.edits import resolve_target
from ..base.form import Field, Form

_WHATS = ("checkpoint", "adapter")
_SEEN = ("private", "public")


class PublishForm(Form[PublishSpec]):
    """What to publish; the next step shows files, sizes and card before anything is sent."""

    title_text = "Publish to the Hugging Face Hub"
    keys_text = "Enter shows what would be sent · Tab next line · Esc or Ctrl-C cancels"

    def __init__(self, catalog: Catalog, model: str, revision: str) -> None:
        super().__init__()
        self._catalog = catalog
        self._target = f"{model}@{revision}"

    def fields(self) -> list[Field]:
        return [
            Field("model", "revision", self._target, "MODEL or MODEL@REVISION"),
            Field("repo", "repo", hint="YOU/NAME"),
            Field("what", "as", "checkpoint", ", ".join(_WHATS)),
            Field("seen", "visibility", "private", ", ".join(_SEEN)),
            Field(
                "license", "license", hint="of the base, where its card does not tell: apache-2.0, mit, .."
            ),
            Field("message", "message", hint="the commit's title; by default told from the history"),
        ]

    def read(self, values: dict[str, str]) -> PublishSpec:
        model, revision, _ = resolve_target(self._catalog, values["model"])
        repo, what, seen = (values[name].strip() for name in ("repo", "what", "seen"))
        if not repo:
            raise InputError(
                "give the repo as YOU/NAME; the hub's library tells in the next step whether it can be"
            )
        if what not in _WHATS:
            raise InputError(f"a revision is published as {' or '.join(_WHATS)}")
        if seen not in _SEEN:
            raise InputError("a repo that is made is private or public")
        return PublishSpec(
            model,
            repo,
            revision,
            what,
            public=seen == "public",
            message=values["message"].strip(),
            license=values["license"].strip() or None,
        )

    def cli_equivalent(self, value: PublishSpec) -> str:
        return publish(value)
