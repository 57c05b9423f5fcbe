"""A stand-in for a language model's endpoint; `stand_in_llm` lies beside this file."""

from collections.abc import Iterator

import pytest
from retcon.engine.passages.extraction.endpoint import Endpoint
from retcon.tests.helpers.stand_in_llm import KEY, MODEL, StandInEndpoint


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInEndpoint]:
    """A stand-in that answers {"color": "red"}; tests set another rule."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RETCON_LLM_URL", "RETCON_LLM_MODEL", "RETCON_LLM_KEY"):
        monkeypatch.delenv(name, raising=False)
    # Whatever proxy this box goes through, its own ports are not behind it.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = StandInEndpoint(lambda _system, _user: {"color": "red"})
    yield made
    made.close()


@pytest.fixture
def endpoint(served: StandInEndpoint) -> Endpoint:
    return Endpoint(served.url, MODEL, KEY, retries=1)
