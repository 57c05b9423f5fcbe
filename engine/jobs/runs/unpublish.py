"""Take a publication back from the hub."""

from typing import Any

from huggingface_hub import HfApi

from ....store.errors import InputError
from ....store.history import publications
from ..specs import UnpublishSpec
from ..worker.running import Running
from . import hub
from .hub_errors import plain_hub_errors


def run(running: Running, spec: UnpublishSpec) -> dict[str, Any]:
    """Returns what was removed and how many publications of the catalog that were."""
    with plain_hub_errors(spec.repo):
        who = hub.account()
        repo = spec.repo if "/" in spec.repo else f"{who.name}/{spec.repo}"
        running.say(f"removing {spec.tag or repo}")
        if spec.tag is None:
            HfApi().delete_repo(repo)
        elif spec.tag not in {one.name for one in HfApi().list_repo_refs(repo).tags}:
            raise InputError(f"{repo} has no tag {spec.tag!r}")
        else:
            HfApi().delete_tag(repo, tag=spec.tag)
    with running.catalog.write(durable=True) as session:
        count = publications.withdraw(session, repo, spec.tag)
        return running.commit(session, {"repo": repo, "tag": spec.tag, "publications": count})
