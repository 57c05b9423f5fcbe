"""Asking a language model, wherever it runs: messages in, a reply out, and replies of a given shape.

An endpoint (`endpoint.Endpoint`) and a model on this machine (`local.LocalChat`) are both a `Chat`; `Counted` and
`Remembered` wrap one. `ask` is how the steps of a passage use it. Loads no torch.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from ...errors import EndpointError

_SHOWN = 160

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Schema:
    """What a reply must be, as a JSON schema without references, and a name for it."""

    name: str
    json: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What was said; `data` is the JSON in it where a schema was asked for (None if there is none).

    `cut`: it ended at its token limit. `seconds` is wall time, waiting and trying again included.
    """

    text: str
    data: Any
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cut: bool = False


class Chat(Protocol):
    """A language model that can be asked. It is greedy: the same messages get the same reply, as far as it can be had.

    `name` says which model it is, and where, without any secret.
    """

    @property
    def name(self) -> str: ...

    def chat(self, messages: Sequence[Message], schema: Schema | None, max_tokens: int) -> Reply:
        """The reply to a conversation.

        Raises:
            InputError: a person must change something: the address, the key, the model, the length.
            EndpointError: it failed; trying again later may help.
        """
        ...


@dataclass(frozen=True)
class Spent:
    """What asking has cost so far."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Counted:
    """A chat that counts what it costs, in `spent`. Replies that were remembered count with what they cost then."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.spent = Spent()

    @property
    def name(self) -> str:
        return self._chat.name

    def chat(self, messages: Sequence[Message], schema: Schema | None, max_tokens: int) -> Reply:
        reply = self._chat.chat(messages, schema, max_tokens)
        spent = self.spent
        self.spent = Spent(
            spent.calls + 1,
            spent.prompt_tokens + reply.prompt_tokens,
            spent.completion_tokens + reply.completion_tokens,
            spent.seconds + reply.seconds,
        )
        return reply


class Replies(Protocol):
    """Where replies are kept, each under a sha256 and as plain JSON values."""

    def get(self, key: str, /) -> dict[str, Any] | None: ...

    def __setitem__(self, key: str, value: dict[str, Any], /) -> None: ...


class Remembered:
    """A chat that asks each thing once: what is kept is not asked again, so that work on replies can be resumed."""

    def __init__(self, chat: Chat, replies: Replies) -> None:
        self._chat, self._replies = chat, replies

    @property
    def name(self) -> str:
        return self._chat.name

    def chat(self, messages: Sequence[Message], schema: Schema | None, max_tokens: int) -> Reply:
        asked = [self.name, [asdict(one) for one in messages], schema and asdict(schema), max_tokens]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        kept = self._replies.get(key)
        if kept is not None:
            return Reply(**kept)
        reply = self._chat.chat(messages, schema, max_tokens)
        self._replies[key] = asdict(reply)
        return reply


class UnusableReply(EndpointError):
    """A model was asked twice and gave no reply of the shape that was asked for."""


def ask(chat: Chat, instruction: str, text: str, shape: type[T], max_tokens: int = 2048) -> T:
    """The reply to `text` as data of a shape; a reply without it is sent back once with what is wrong with it.

    Raises:
        UnusableReply: neither reply could be used; the message says why, and how it begins.
        InputError, EndpointError: as `Chat.chat`.
    """
    schema = schema_of(shape)
    wanted = f"Reply with one JSON object of this JSON schema and nothing else:\n{json.dumps(schema.json)}"
    messages = [Message("system", f"{instruction}\n\n{wanted}"), Message("user", text)]
    first = chat.chat(messages, schema, max_tokens)
    try:
        return _shaped(first, shape, max_tokens)
    except ValueError as wrong:
        problem = str(wrong)
    messages += [
        Message("assistant", first.text[: 4 * max_tokens] or "…"),
        Message("user", f"That cannot be used: {problem}. Reply again with the JSON object only."),
    ]
    second = chat.chat(messages, schema, max_tokens)
    try:
        return _shaped(second, shape, max_tokens)
    except ValueError as wrong:
        raise UnusableReply(
            f"{chat.name} was asked for {schema.name} twice and its reply cannot be used: {wrong}. It begins "
            f"{shown(second.text)}; a larger model is likely to manage"
        ) from None


def _shaped(reply: Reply, shape: type[T], max_tokens: int) -> T:
    """Raises ValueError with what is wrong with the reply."""
    if reply.data is None:
        why = (
            f"it was cut off at its limit of {max_tokens} tokens" if reply.cut else "it holds no JSON object"
        )
        raise ValueError(why)
    try:
        return shape.model_validate(reply.data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the object"
        raise ValueError(f"at {shown(where)}: {first['msg']}") from None


def schema_of(shape: type[BaseModel]) -> Schema:
    """The JSON schema of a shape, its definitions in place: not every server follows references."""
    whole = shape.model_json_schema()
    definitions = whole.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(definitions[part["$ref"].rpartition("/")[2]])
        # A title only repeats the field's name; a field named title has an object under it.
        made = {
            key: inlined(value) for key, value in part.items() if key != "title" or isinstance(value, dict)
        }
        if part.get("type") == "object":  # strict servers want to be told
            made["additionalProperties"] = False
        return made

    return Schema(shape.__name__.lower(), inlined(whole))


def json_in(text: str) -> Any:
    """The JSON object in a reply: the whole, or the first with nothing but words around it; None if there is none.

    What a model thinks aloud before (`<think>…</think>`) is set aside.
    """
    text = re.sub(r"(?s)^\s*<think>.*?</think>", "", text)
    for candidate in _objects(text):
        return candidate
    return None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            # A brace that opens nothing; but not those inside an object that was cut off: they are no reply.
            if re.match(r'\{\s*"', text[at:]):
                return
            end = at + 1
        else:
            yield found
        at = text.find("{", end)


def shown(text: str) -> str:
    """What a model or a server said, for a message: one line, quoted, control characters spelt out, not too long."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…")
