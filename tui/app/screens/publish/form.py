"""The first step of publishing: revision, format and repo."""

from .....engine.jobs.specs import PublishSpec
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from ....actions.publish import FORMATS, build_publish_spec
from ....cli_equivalent import publish
from ..base.form import Field, Form

_VISIBILITIES = ("private", "public")


class PublishForm(Form[PublishSpec]):
    """Options of a publication. The next step shows files, sizes and card before anything is sent."""

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
            Field("what", "as", "checkpoint", ", ".join(FORMATS)),
            Field("visibility", "visibility", "private", ", ".join(_VISIBILITIES)),
            Field("license", "license", hint="of the base, if its card has none: apache-2.0, mit, .."),
            Field("message", "message", hint="title of the commit; by default from the history"),
        ]

    def read(self, values: dict[str, str]) -> PublishSpec:
        typed = {name: value.strip() for name, value in values.items()}
        if typed["visibility"] not in _VISIBILITIES:
            raise InputError("a new repo must be private or public")
        draft = PublishSpec(
            model=typed["model"], repo=typed["repo"], export_kind=typed["what"], public=typed["visibility"] == "public",
            license=typed["license"], message=typed["message"],
        )  # fmt: skip
        return build_publish_spec(self._catalog, draft)

    def cli_equivalent(self, value: PublishSpec) -> str:
        return publish(value)
