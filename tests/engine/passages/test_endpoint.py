"""The real client against a server as the endpoints are: what it is asked, and what becomes of each way it can fail."""

import logging
from typing import Any

import pytest
from pydantic import BaseModel
from retcon.engine.errors import EndpointError, InputError
from retcon.engine.passages.extraction.chat import Counted, Message, Remembered, UnusableReply, ask, json_in
from retcon.engine.passages.extraction.endpoint import Endpoint, endpoint_from
from retcon.tests.helpers.stand_in_llm import KEY, MODEL, StandInEndpoint


class Shade(BaseModel):
    name: str


class Color(BaseModel):
    color: str
    shades: list[Shade] = []


def test_it_is_asked_greedily_for_json_of_a_schema(served: StandInEndpoint, endpoint: Endpoint) -> None:
    counted = Counted(endpoint)
    assert ask(counted, "Name a color.", "A warm one", Color, 77) == Color(color="red")
    (asked,) = served.requests
    assert (asked["temperature"], asked["max_tokens"], asked["model"]) == (0, 77, MODEL)
    form = asked["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["name"] == "color"
    properties = form["json_schema"]["schema"]["properties"]
    assert properties["shades"]["items"]["properties"] == {"name": {"type": "string"}}
    assert [one["role"] for one in asked["messages"]] == ["system", "user"]
    assert served.keys == [f"Bearer {KEY}"]
    assert (counted.spent.calls, counted.spent.prompt_tokens, counted.spent.completion_tokens) == (1, 20, 5)
    assert counted.spent.seconds > 0


@pytest.mark.parametrize(
    ("mode", "forms"),
    [
        ("object", ["json_schema", "json_object", "json_object"]),
        ("text", ["json_schema", "json_object", "text", "text"]),
    ],
)
def test_servers_without_schemas_are_asked_otherwise_and_not_twice(
    mode: str, forms: list[str], served: StandInEndpoint, endpoint: Endpoint
) -> None:
    served.mode = mode
    for _ in range(2):
        assert ask(endpoint, "Name a color.", "A warm one", Color).color == "red"
    assert [one.get("response_format", {}).get("type", "text") for one in served.requests] == forms


def test_newer_and_fixed_models_are_asked_otherwise(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "new-limit"
    assert ask(endpoint, "", "x", Color, 9).color == "red"
    assert served.requests[-1]["max_completion_tokens"] == 9
    served.mode = "one-warmth"
    assert ask(endpoint, "", "x", Color).color == "red"
    assert "temperature" not in served.requests[-1]


def test_thoughts_and_fences_around_the_json(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "thinks"
    assert ask(endpoint, "", "x", Color).color == "red"


def test_it_waits_as_long_as_it_is_told(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "busy"
    assert ask(endpoint, "", "x", Color).color == "red"
    first, second = served.times
    assert second - first >= 0.3


FAILURES = [
    ("401", InputError, "does not accept the key (401): set RETCON_LLM_KEY"),
    ("403", InputError, "does not let this key use stand-in (403): 'no, …"),
    ("404", InputError, "has no model 'stand-in' (404); it serves one, other"),
    ("400", InputError, "refuses the request (400): 'no, …"),
    ("500", EndpointError, "failed (500): try again later; 'no, …"),
    ("exhausted", EndpointError, "asks for fewer requests (429): go on in 900 seconds"),
    ("page", InputError, "not as an OpenAI-compatible endpoint does; its address often ends in /v1"),
    ("slow", EndpointError, "did not answer within 0.2 seconds"),
    ("broken", UnusableReply, "its reply cannot be used: it holds no JSON object. It begins 'I would rather"),
    ("cut", UnusableReply, "it was cut off at its limit of 2048 tokens"),
]


@pytest.mark.parametrize(("mode", "kind", "said"), FAILURES, ids=[one[0] for one in FAILURES])
def test_failures_are_a_sentence_without_the_key(
    mode: str, kind: type[Exception], said: str, served: StandInEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint(served.url, MODEL, KEY, timeout=0.2 if mode == "slow" else 20, retries=0)
    served.mode, served.faults = mode, 9
    if mode == "404":
        served.models = ["one", "other"]
    with pytest.raises(kind) as failed:
        ask(endpoint, "Name a color.", "x", Color)
    message = str(failed.value)
    assert said in message and message.isprintable()
    # Nor in the client's error, which holds the request.
    assert failed.value.__context__ is None or failed.value.__suppress_context__
    for text in (message, repr(failed.value), repr(endpoint), endpoint.name, caplog.text):
        assert KEY not in text


def test_a_reply_that_cannot_be_used_is_sent_back_once(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.mode = "broken"
    assert ask(endpoint, "", "x", Color).color == "red"
    said = [one["content"] for one in served.requests[1]["messages"][2:]]
    assert said[0].startswith("I would rather") and "holds no JSON object" in said[1]
    served.mode, served.rule = "plain", lambda _system, _user: {"shade": "red"}
    with pytest.raises(UnusableReply, match="at 'color': Field required"):
        ask(endpoint, "", "x", Color)


def test_nobody_there() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1?key=hidden", MODEL, retries=0)
    with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached \('.*refused'\)"):
        ask(endpoint, "", "x", Color)


def test_the_environment(served: StandInEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "my-company")

    def asked(environ: dict[str, str], **options: Any) -> str | None:
        endpoint = endpoint_from(environ, **options)
        endpoint.chat([Message("user", "a"), Message("user", "b")], None, 5)
        assert "my-company" not in served.headers[-1].values()
        return served.keys[-1]

    own = {"RETCON_LLM_URL": served.url, "RETCON_LLM_MODEL": MODEL}
    theirs = {"OPENAI_BASE_URL": served.url, "OPENAI_API_KEY": "theirs"}
    assert asked(own | {"RETCON_LLM_KEY": "mine"}) == "Bearer mine"
    assert asked(own) is None
    assert asked(theirs) == "Bearer theirs"
    assert asked(theirs | {"RETCON_LLM_KEY": "mine"}) == "Bearer mine"
    # OpenAI's key does not go to an address that was not given for it.
    assert asked(theirs | own) is None
    assert asked(own, key="given", model=MODEL) == "Bearer given"
    with pytest.raises(InputError, match="set RETCON_LLM_URL"):
        endpoint_from({"RETCON_LLM_MODEL": MODEL})
    served.models = ["one", "other"]
    with pytest.raises(InputError, match="set RETCON_LLM_MODEL; it serves one, other"):
        endpoint_from({"RETCON_LLM_URL": served.url})
    served.mode = "401"
    with pytest.raises(InputError, match="wants a key, and none was sent"):
        asked(own)
    for url in ("localhost:80", "http://", "ftp://a", "http://a:x/", "http://\x1b[2J"):
        with pytest.raises(InputError, match="is no URL") as refused:
            endpoint_from({}, url=url, model=MODEL)
        assert str(refused.value).isprintable()
    with pytest.raises(InputError, match="holds a user or a password") as refused:
        Endpoint("http://me:hidden@127.0.0.1:9/v1", MODEL)
    assert "hidden" not in str(refused.value)


def test_remembered_replies_are_not_asked_again(served: StandInEndpoint, endpoint: Endpoint) -> None:
    kept: dict[str, Any] = {}
    first = Counted(Remembered(endpoint, kept))
    ask(first, "Name a color.", "x", Color)
    again = Counted(Remembered(endpoint, kept))
    assert ask(again, "Name a color.", "x", Color) == Color(color="red")
    assert (len(served.requests), again.spent) == (1, first.spent)
    ask(again, "Name a color.", "another", Color)
    assert len(served.requests) == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure {here}: {"a": {"b": 2}} and {"c": 3}', {"a": {"b": 2}}),
        ('{"a": [{"b": 1}, {"b"', None),
        ("[1, 2]", None),
        ("", None),
        ('{"a": ' * 5000, None),
    ],
)
def test_json_in_a_reply(text: str, found: Any) -> None:
    assert json_in(text) == found
