"""The endpoint client against a local HTTP server: its requests, and the error message of each failure."""

import logging
from typing import Any

import pytest
from pydantic import BaseModel

from retcon.engine.errors import EndpointError, InputError
from retcon.engine.passages.extraction.chat import (
    CachedChat,
    Message,
    UnusableReply,
    find_json,
    request_json,
)
from retcon.engine.passages.extraction.endpoint import Endpoint, open_endpoint
from retcon.tests.helpers.stand_in_llm import KEY, MODEL, StandInEndpoint


class Shade(BaseModel):
    name: str


class Color(BaseModel):
    color: str
    shades: list[Shade] = []


def test_request_is_greedy_with_a_json_schema(served: StandInEndpoint, endpoint: Endpoint) -> None:
    metered = CachedChat(endpoint, {})
    assert request_json(metered, "Name a color.", "A warm one", Color, 77) == Color(color="red")
    (request,) = served.requests
    assert (request["temperature"], request["max_tokens"], request["model"]) == (0, 77, MODEL)
    form = request["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["name"] == "color"
    properties = form["json_schema"]["schema"]["properties"]
    assert properties["shades"]["items"]["properties"] == {"name": {"type": "string"}}
    assert [one["role"] for one in request["messages"]] == ["system", "user"]
    assert served.keys == [f"Bearer {KEY}"]
    assert metered.tokens == 25


@pytest.mark.parametrize(
    ("mode", "forms"),
    [
        ("object", ["json_schema", "json_object", "json_object"]),
        ("text", ["json_schema", "json_object", "text", "text"]),
    ],
)
def test_client_falls_back_once_without_schema_support(
    mode: str, forms: list[str], served: StandInEndpoint, endpoint: Endpoint
) -> None:
    served.mode = mode
    for _ in range(2):
        assert request_json(endpoint, "Name a color.", "A warm one", Color).color == "red"
    assert [one.get("response_format", {}).get("type", "text") for one in served.requests] == forms


def test_client_adapts_limit_and_temperature(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "new-limit"
    assert request_json(endpoint, "", "x", Color, 9).color == "red"
    assert served.requests[-1]["max_completion_tokens"] == 9
    served.mode = "one-temperature"
    assert request_json(endpoint, "", "x", Color).color == "red"
    assert "temperature" not in served.requests[-1]


def test_json_is_found_after_thoughts_and_in_fences(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "thinks"
    assert request_json(endpoint, "", "x", Color).color == "red"


def test_client_waits_for_retry_after(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "busy"
    assert request_json(endpoint, "", "x", Color).color == "red"
    first, second = served.times
    assert second - first >= 0.3


FAILURES = [
    ("401", InputError, "rejected the key (401). Set RETCON_LLM_KEY"),
    ("403", InputError, "does not permit this key to use stand-in (403): 'no, …"),
    ("404", InputError, "has no model 'stand-in' (404); it serves one, other"),
    ("400", InputError, "rejected the request (400): 'no, …"),
    ("500", EndpointError, "failed (500). Retry later. 'no, …"),
    ("exhausted", EndpointError, "limits the rate of requests (429). Retry in 900 seconds"),
    ("page", InputError, "is not that of an OpenAI-compatible endpoint. The address often ends in /v1"),
    ("slow", EndpointError, "did not reply within 0.2 seconds"),
    (
        "broken",
        UnusableReply,
        "its reply is not usable: it contains no JSON object. The reply begins 'I would rather",
    ),
    ("cut", UnusableReply, "it was cut off at its limit of 2048 tokens"),
]


@pytest.mark.parametrize(("mode", "kind", "expected"), FAILURES, ids=[one[0] for one in FAILURES])
def test_error_messages_do_not_contain_the_key(
    mode: str, kind: type[Exception], expected: str, served: StandInEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint(served.url, MODEL, KEY, timeout=0.2 if mode == "slow" else 20, retries=0)
    served.mode, served.faults = mode, 9
    if mode == "404":
        served.models = ["one", "other"]
    with pytest.raises(kind) as failed:
        request_json(endpoint, "Name a color.", "x", Color)
    message = str(failed.value)
    assert expected in message and message.isprintable()
    # The client's error contains the request with its key, so it is not chained.
    assert failed.value.__context__ is None or failed.value.__suppress_context__
    for text in (message, repr(failed.value), repr(endpoint), endpoint.name, caplog.text):
        assert KEY not in text


def test_invalid_reply_is_sent_back_once(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "broken"
    assert request_json(endpoint, "", "x", Color).color == "red"
    messages = [one["content"] for one in served.requests[1]["messages"][2:]]
    assert messages[0].startswith("I would rather") and "contains no JSON object" in messages[1]
    served.mode, served.rule = "plain", lambda _system, _user: {"shade": "red"}
    with pytest.raises(UnusableReply, match="at 'color': Field required"):
        request_json(endpoint, "", "x", Color)


def test_unreachable_endpoint() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1?key=hidden", MODEL, retries=0)
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached \('.*refused'\)"):
        request_json(endpoint, "", "x", Color)


def test_options_override_environment_variables(
    served: StandInEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "my-company")

    def sent_key(environ: dict[str, str], **options: Any) -> str | None:
        endpoint = open_endpoint(environ, **options)
        endpoint.chat([Message("user", "a"), Message("user", "b")], None, 5)
        assert "my-company" not in served.headers[-1].values()
        return served.keys[-1]

    own = {"RETCON_LLM_URL": served.url, "RETCON_LLM_MODEL": MODEL}
    theirs = {"OPENAI_BASE_URL": served.url, "OPENAI_API_KEY": "theirs"}
    assert sent_key(own | {"RETCON_LLM_KEY": "mine"}) == "Bearer mine"
    assert sent_key(own) is None
    assert sent_key(theirs) == "Bearer theirs"
    assert sent_key(theirs | {"RETCON_LLM_KEY": "mine"}) == "Bearer mine"
    # OPENAI_API_KEY is sent only to OPENAI_BASE_URL.
    assert sent_key(theirs | own) is None
    assert sent_key(own, key="given", model=MODEL) == "Bearer given"
    with pytest.raises(InputError, match="Set RETCON_LLM_URL"):
        open_endpoint({"RETCON_LLM_MODEL": MODEL})
    served.models = ["one", "other"]
    with pytest.raises(InputError, match="set RETCON_LLM_MODEL; it serves one, other"):
        open_endpoint({"RETCON_LLM_URL": served.url})
    served.mode = "401"
    with pytest.raises(InputError, match="requires a key, and none was sent"):
        sent_key(own)
    for url in ("localhost:80", "http://", "ftp://a", "http://a:x/", "http://\x1b[2J"):
        with pytest.raises(InputError, match="is not a valid URL") as refused:
            open_endpoint({}, url=url, model=MODEL)
        assert str(refused.value).isprintable()
    with pytest.raises(InputError, match="contains a user or a password") as refused:
        Endpoint("http://me:hidden@127.0.0.1:9/v1", MODEL)
    assert "hidden" not in str(refused.value)


def test_cached_replies_are_not_requested_again(served: StandInEndpoint, endpoint: Endpoint) -> None:
    cache: dict[str, Any] = {}
    first = CachedChat(endpoint, cache)
    request_json(first, "Name a color.", "x", Color)
    [reply] = cache.values()
    reply["seconds"] = 1.5  # stored by older versions
    again = CachedChat(endpoint, cache)
    assert request_json(again, "Name a color.", "x", Color) == Color(color="red")
    assert (len(served.requests), again.tokens) == (1, first.tokens)
    request_json(again, "Name a color.", "another", Color)
    assert len(served.requests) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure {here}: {"a": {"b": 2}} and {"c": 3}', {"a": {"b": 2}}),
        ('{"a": [{"b": 1}, {"b"', None),
        ("[1, 2]", None),
        ("", None),
        ('{"a": ' * 5000, None),
    ],
)
def test_find_json(text: str, expected: Any) -> None:
    assert find_json(text) == expected
