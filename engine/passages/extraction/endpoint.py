"""Any OpenAI-compatible endpoint as a `Chat`: Groq, vLLM, Ollama, llama.cpp, `transformers serve`, OpenAI itself.

The client tries again by itself, waits as long as a `Retry-After` says (up to two minutes), and gives up after
`RETRIES`. The key is sent to the endpoint and to nobody else: it stands in no message, repr or log.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import EndpointError, InputError
from .chat import Message, Reply, Schema, json_in, shown

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

RETRIES = 4
TIMEOUT = 300.0
_OPENAI = "https://api.openai.com/v1"

# How a server is asked for JSON, best first; one that refuses a way is asked the next.
_FORMATS = ("json_schema", "json_object", "text")


def endpoint_from(
    environ: Mapping[str, str],
    url: str | None = None,
    model: str | None = None,
    key: str | None = None,
    timeout: float = TIMEOUT,
) -> "Endpoint":
    """The endpoint that options and environment name; an option goes before its variable.

    RETCON_LLM_URL, RETCON_LLM_MODEL, RETCON_LLM_KEY, else OPENAI_BASE_URL and OPENAI_API_KEY. A key that was given for
    OpenAI's variables is not sent to an address that was given otherwise. Without a model, the one that the endpoint
    serves, if it is only one.

    Raises:
        InputError: no address, or one that is none, or no model.
        EndpointError: no model was named and the endpoint cannot be asked which it serves.
    """
    own = url or environ.get("RETCON_LLM_URL")
    key = key or environ.get("RETCON_LLM_KEY")
    if not own:
        theirs = environ.get("OPENAI_API_KEY")
        own = environ.get("OPENAI_BASE_URL") or (_OPENAI if theirs else None)
        key = key or theirs
    if not own:
        raise InputError(
            "no endpoint to ask: set RETCON_LLM_URL (such as http://localhost:11434/v1), RETCON_LLM_MODEL and, "
            "where it wants one, RETCON_LLM_KEY; or choose a model of this machine"
        )
    return Endpoint(own, model or environ.get("RETCON_LLM_MODEL"), key, timeout)


class Endpoint:
    """A model behind an OpenAI-compatible address. Raises InputError if the address is none, or no model is named and
    the endpoint does not serve exactly one."""

    def __init__(
        self,
        url: str,
        model: str | None,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
    ) -> None:
        self.url = _checked(url)
        self._timeout = timeout
        self._key = key.strip() if key else None
        if self._key is not None and not (self._key.isascii() and self._key.isprintable()):
            raise InputError("the endpoint's key holds characters that no key has: set it again")
        self._client = _client(url, self._key, timeout, retries)
        self._headers = _headers(url, self._key)
        # What this server was found to want otherwise; see _adapt.
        self._format, self._accepted = 0, False
        self._limit, self._greedy = "max_tokens", True
        self.model = model or self._only_model()

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"

    def chat(self, messages: Sequence[Message], schema: Schema | None, max_tokens: int) -> Reply:
        begun = time.monotonic()
        made = self._completion(messages, schema, max_tokens)
        choices: list[Any] = getattr(made, "choices", None) or []
        message = getattr(choices[0], "message", None) if choices else None
        if message is None:
            raise InputError(
                f"{self.url} answers, but not as an OpenAI-compatible endpoint does; its address often ends in /v1"
            )
        if getattr(message, "refusal", None):
            raise EndpointError(f"{self.name} refused to answer: {shown(str(message.refusal))}")
        text = message.content or ""
        usage = made.usage
        return Reply(
            text,
            json_in(text) if schema else None,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
            time.monotonic() - begun,
            choices[0].finish_reason == "length",
        )

    def _completion(self, messages: Sequence[Message], schema: Schema | None, max_tokens: int) -> Any:
        """What the client makes of the server's answer; the server is asked otherwise as long as it refuses how."""
        from openai import BadRequestError, OpenAIError, UnprocessableEntityError

        while True:
            asked: dict[str, Any] = {
                "model": self.model,
                "messages": [{"role": one.role, "content": one.content} for one in messages],
                self._limit: max_tokens,
                "extra_headers": self._headers,
            }
            if self._greedy:
                asked["temperature"] = 0
            if schema is not None and _FORMATS[self._format] != "text":
                asked["response_format"] = _response_format(_FORMATS[self._format], schema)
            try:
                made = self._client.chat.completions.create(**asked)
            except (BadRequestError, UnprocessableEntityError) as error:
                if self._adapt(error, "response_format" in asked):
                    continue
                failed = self._sentence(error)
            except (OpenAIError, ValueError) as error:  # ValueError: a body that is no JSON
                failed = self._sentence(error)
            else:
                self._accepted = self._accepted or schema is not None
                return made
            # Not chained: the client's errors hold the request, with its key.
            raise failed from None

    def _adapt(self, error: "APIStatusError", formatted: bool) -> bool:
        """Ask otherwise from now on, if that is what a server that refuses a request may want."""
        said = str(error)
        if self._limit == "max_tokens" and "max_completion_tokens" in said:
            self._limit = "max_completion_tokens"
        elif self._greedy and "temperature" in said:
            self._greedy = False  # the model has only one
        elif formatted and not self._accepted:
            self._format += 1
        else:
            return False
        return True

    def _only_model(self) -> str:
        served = self._served()
        if len(served) == 1:
            return served[0]
        which = f"it serves {', '.join(served[:8])}" if served else "it does not say which it serves"
        raise InputError(f"no model is named for {self.url}: set RETCON_LLM_MODEL; {which}")

    def _served(self) -> list[str]:
        from openai import OpenAIError

        try:
            found = [one.id for one in self._client.models.list(extra_headers=self._headers).data]
        except (OpenAIError, ValueError, AttributeError, TypeError) as error:
            if getattr(error, "status_code", 0) in (404, 405) or not isinstance(error, OpenAIError):
                return []
            failed = self._sentence(error)
        else:
            return [shown(name)[1:-1] for name in found if isinstance(name, str)]
        raise failed from None

    def _sentence(self, error: Exception) -> Exception:
        """What went wrong, for a person: InputError where something must be changed, else EndpointError."""
        from openai import APIConnectionError, APITimeoutError, RateLimitError

        status = getattr(error, "status_code", None)
        said = self._said(error)
        if isinstance(error, APITimeoutError):
            return EndpointError(
                f"{self.url} did not answer within {self._timeout:g} seconds: try again, or give it a longer time limit"
            )
        if isinstance(error, APIConnectionError):
            why = self._redacted(str(error.__cause__ or error))
            return EndpointError(
                f"{self.url} cannot be reached ({why}): is it running, is the line up, is the address right?"
            )
        if status == 401:
            key = "does not accept the key" if self._key else "wants a key, and none was sent"
            return InputError(
                f"{self.url} {key} (401): set RETCON_LLM_KEY (OPENAI_API_KEY goes to OPENAI_BASE_URL only)"
            )
        if status == 403:
            return InputError(f"{self.url} does not let this key use {self.model} (403): {said}")
        if status == 404:
            return InputError(self._not_found(said))
        if status == 429 and getattr(error, "code", None) == "insufficient_quota":
            return InputError(f"{self.url} says that the account's quota is used up (429): {said}")
        if isinstance(error, RateLimitError):
            wait = error.response.headers.get("retry-after", "")
            when = f"in {wait} seconds" if wait.isdigit() else "in some minutes"
            return EndpointError(f"{self.url} asks for fewer requests (429): go on {when}; {said}")
        if status is not None and status < 500:
            return InputError(f"{self.url} refuses the request ({status}): {said}")
        if status is not None:
            return EndpointError(f"{self.url} failed ({status}): try again later; {said}")
        return InputError(
            f"{self.url} answers, but not as an OpenAI-compatible endpoint does; its address often ends in /v1"
        )

    def _not_found(self, said: str) -> str:
        try:
            served = self._served()
        except (InputError, EndpointError):
            served = []
        if served:
            return f"{self.url} has no model {self.model!r} (404); it serves {', '.join(served[:8])}"
        return f"{self.url} knows no such model or address (404; they often end in /v1): {said}"

    def _said(self, error: Exception) -> str:
        """The server's own words."""
        body = getattr(error, "body", None)
        inner = body.get("message") if isinstance(body, dict) else body
        return self._redacted(inner if isinstance(inner, str) else str(error))

    def _redacted(self, text: str) -> str:
        # Before it is cut: half a key is still too much of it.
        return shown(text.replace(self._key, "…") if self._key else text)


def _client(url: str, key: str | None, timeout: float, retries: int) -> "OpenAI":
    from openai import OpenAI

    return OpenAI(api_key=key or "none", base_url=url, timeout=timeout, max_retries=retries)


def _headers(url: str, key: str | None) -> dict[str, Any]:
    """Without a key no header for one; and what the environment says of an OpenAI account is for OpenAI."""
    from openai import Omit

    omitted = [] if key else ["Authorization"]
    if urlsplit(url).hostname != urlsplit(_OPENAI).hostname:
        omitted += ["OpenAI-Organization", "OpenAI-Project"]
    return {name: Omit() for name in omitted}


def _checked(url: str) -> str:
    """The address as it may be shown: without a query, which may hold a key."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise InputError(
            "the endpoint's address is no URL: give one such as http://localhost:11434/v1"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise InputError(
            f"the endpoint's address {shown(url.rpartition('@')[2])} is no URL: give one such as http://localhost:11434/v1"
        )
    if parts.username is not None:
        raise InputError(
            "the endpoint's address holds a user or a password: give a key as RETCON_LLM_KEY instead"
        )
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/")


def _response_format(kind: str, schema: Schema) -> dict[str, Any]:
    if kind == "json_object":
        return {"type": kind}
    return {"type": kind, "json_schema": {"name": schema.name, "schema": schema.json, "strict": True}}
