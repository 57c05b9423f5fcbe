"""The real huggingface_hub in the test's own process, pointed at a stand-in."""

from dataclasses import dataclass

from huggingface_hub import constants
from stand_in import StandIn

# What the tiny model is asked, and what its edits are about.
PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"


@dataclass
class Client:
    """Which stand-in it talks to."""

    hub: StandIn

    def use(self, hub: StandIn) -> None:
        self.hub = hub
        # Both are made from HF_ENDPOINT when the library is imported.
        constants.ENDPOINT = hub.url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
