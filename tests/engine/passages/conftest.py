"""A stand-in for a language model's endpoint (see `tests.helpers.stand_in_llm`)."""

from collections.abc import Iterator

import pytest

from retcon.engine.passages.extraction.endpoint import Endpoint
from retcon.tests.helpers.stand_in_llm import KEY, MODEL, StandInEndpoint


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInEndpoint]:
    """A stand-in that replies {"color": "red"}. Tests set another rule."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RETCON_LLM_URL", "RETCON_LLM_MODEL", "RETCON_LLM_KEY"):
        monkeypatch.delenv(name, raising=False)
    # Requests to local ports must bypass the machine's proxy.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = StandInEndpoint(lambda _system, _user: {"color": "red"})
    yield server
    server.close()


@pytest.fixture
def endpoint(served: StandInEndpoint) -> Endpoint:
    return Endpoint(served.url, MODEL, KEY, retries=1)
