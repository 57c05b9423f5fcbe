"""The real huggingface_hub in the test's process, connected to a stand-in, and jobs that use it."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub import constants

from retcon.engine.jobs.specs import PublishSpec, Spec
from retcon.engine.jobs.worker.running import RunningJob
from retcon.store import jobs
from retcon.store.catalog.catalog import Catalog
from retcon.store.history import history
from retcon.tests.helpers.hub_stand_in import StandIn

# The prompt and the subject of the tiny model's edits.
PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"


@dataclass
class Client:
    """The stand-in that the client is connected to."""

    hub: StandIn

    def use(self, hub: StandIn) -> None:
        self.hub = hub
        # The library computes both from HF_ENDPOINT at import.
        constants.ENDPOINT = hub.url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.url + "/{repo_id}/resolve/{revision}/{filename}"


def spec_of(catalog: Catalog, revision: str, what: str, repo: str = "tower", **more: Any) -> PublishSpec:
    """A spec that publishes a revision of the tiny model, in small shards."""
    with catalog.read() as session:
        found = history.find_revision(session, history.find_model(session, "tiny"), revision)
    return PublishSpec("tiny", repo, found.id, what, shard_size=40_000, **more)


def running_of(catalog: Catalog, spec: Spec) -> RunningJob:
    """A job that this process has claimed."""
    with catalog.write() as session:
        job = jobs.create(session, spec.kind, spec.as_dict(), "cpu")
        assert jobs.claim(session, job.id or 0, "me", 1)
        job = jobs.get(session, job.id or 0)
    return RunningJob(catalog, job, "me")
