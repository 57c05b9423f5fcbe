"""Chat with a language model: messages in, a reply out, and replies that match a schema. Imports no torch.

`endpoint.Endpoint` and `local.LocalChat` implement `Chat`; `CachedChat` wraps one. The steps of an extraction call
`request_json`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from ...errors import EndpointError
from ..checks import quote

MESSAGE_LENGTH = 160

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class ReplySchema:
    """The JSON schema of a reply, without references, and its name."""

    name: str
    json: dict[str, Any]


@dataclass(frozen=True)
class ChatReply:
    """A reply. If a schema was requested, `data` is the JSON object in the text, or None if there is none.

    `cut`: the reply reached its token limit.
    """

    text: str
    data: Any
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False


class Chat(Protocol):
    """A language model with greedy decoding: equal messages get equal replies, as far as the server allows.

    `name` identifies the model and its address. It contains no secret.
    """

    @property
    def name(self) -> str: ...

    def chat(self, messages: Sequence[Message], schema: ReplySchema | None, max_tokens: int) -> ChatReply:
        """The reply to a conversation.

        Raises:
            InputError: the user must change the address, the key, the model or the length.
            EndpointError: the model failed. A later retry may succeed.
        """
        ...


class ReplyCache(Protocol):
    """Storage of replies as plain JSON values, each under a sha256."""

    def get(self, key: str, /) -> dict[str, Any] | None: ...

    def __setitem__(self, key: str, value: dict[str, Any], /) -> None: ...


class CachedChat:
    """A chat that sends each request once and stores its reply, so that an interrupted extraction can resume.

    `tokens` counts the tokens of all requests and replies. A cached reply counts with its original cost.
    """

    def __init__(self, chat: Chat, cache: ReplyCache) -> None:
        self._chat, self._cache = chat, cache
        self.tokens = 0

    @property
    def name(self) -> str:
        return self._chat.name

    def chat(self, messages: Sequence[Message], schema: ReplySchema | None, max_tokens: int) -> ChatReply:
        request = [self.name, [asdict(one) for one in messages], schema and asdict(schema), max_tokens]
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        cached = self._cache.get(key)
        if cached is None:
            reply = self._chat.chat(messages, schema, max_tokens)
            self._cache[key] = asdict(reply)
        else:  # older versions stored more fields, which are ignored
            reply = TypeAdapter(ChatReply).validate_python(cached)
        self.tokens += reply.prompt_tokens + reply.completion_tokens
        return reply


class UnusableReply(EndpointError):
    """Two replies of a model did not match the schema."""


def request_json(chat: Chat, instruction: str, text: str, model: type[T], max_tokens: int = 2048) -> T:
    """Request a reply to `text` as data of a pydantic model. An invalid reply is sent back once with its error.

    Raises:
        UnusableReply: both replies are invalid. The message has the reason, and the beginning of the reply.
        InputError, EndpointError: as `Chat.chat`.
    """
    schema = build_schema(model)
    form = f"Reply with one JSON object of this JSON schema and nothing else:\n{json.dumps(schema.json)}"
    messages = [Message("system", f"{instruction}\n\n{form}"), Message("user", text)]
    for _ in range(2):
        reply = chat.chat(messages, schema, max_tokens)
        try:
            return _validate(reply, model, max_tokens)
        except ValueError as error:
            problem = str(error)
        messages += [
            Message("assistant", reply.text[: 4 * max_tokens] or "…"),
            Message("user", f"That cannot be used: {problem}. Reply again with the JSON object only."),
        ]
    raise UnusableReply(
        f"{chat.name} was sent the request {schema.name} twice, and its reply is not usable: {problem}. The reply "
        f"begins {quote(reply.text, MESSAGE_LENGTH)}. Try a larger model."
    )


def _validate(reply: ChatReply, model: type[T], max_tokens: int) -> T:
    """The reply's data. Raises ValueError with the reason if it does not match."""
    if reply.data is None:
        limit = f"it was cut off at its limit of {max_tokens} tokens"
        raise ValueError(limit if reply.cut else "it contains no JSON object")
    try:
        return model.model_validate(reply.data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the object"
        raise ValueError(f"at {quote(where, MESSAGE_LENGTH)}: {first['msg']}") from None


def build_schema(model: type[BaseModel]) -> ReplySchema:
    """The JSON schema of a pydantic model with its definitions inlined: not every server supports references."""
    whole = model.model_json_schema()
    definitions = whole.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, list):
            return [inline(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inline(definitions[part["$ref"].rpartition("/")[2]])
        # A title only repeats the field's name. The value of a field named "title" is a dict.
        inlined = {
            key: inline(value) for key, value in part.items() if key != "title" or isinstance(value, dict)
        }
        if part.get("type") == "object":  # strict servers require it
            inlined["additionalProperties"] = False
        return inlined

    return ReplySchema(model.__name__.lower(), inline(whole))


def find_json(text: str) -> Any:
    """The JSON object in a reply: the whole text, or the first object between words. None if there is none.

    A leading chain of thought (`<think>…</think>`) is removed first.
    """
    return next(_find_objects(re.sub(r"(?s)^\s*<think>.*?</think>", "", text)), None)


def _find_objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            # Stop at an object that is cut off: the objects inside it are not a reply. Skip any other brace.
            if re.match(r'\{\s*"', text[at:]):
                return
            end = at + 1
        else:
            yield value
        at = text.find("{", end)
