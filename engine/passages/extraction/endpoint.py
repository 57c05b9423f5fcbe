"""Any OpenAI-compatible endpoint as a `Chat`: Groq, vLLM, Ollama, llama.cpp, `transformers serve`, OpenAI itself.

The client retries `RETRIES` times and waits as long as `Retry-After` says (up to two minutes). The key is sent only to
the endpoint: it is in no message, repr or log.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import EndpointError, InputError
from ..checks import quote
from .chat import MESSAGE_LENGTH, ChatReply, Message, ReplySchema, find_json

if TYPE_CHECKING:
    from openai import APIStatusError

RETRIES = 4
TIMEOUT = 300.0
_OPENAI = "https://api.openai.com/v1"
_EXAMPLE_URL = "http://localhost:11434/v1"
_MODELS_SHOWN = 8

# Ways to request JSON, best first. If a server rejects one, the next is tried.
_FORMATS = ("json_schema", "json_object", "text")


def open_endpoint(
    environ: Mapping[str, str],
    url: str | None = None,
    model: str | None = None,
    key: str | None = None,
    timeout: float = TIMEOUT,
) -> "Endpoint":
    """The endpoint that options and environment variables specify. An option overrides its variable.

    The variables are RETCON_LLM_URL, RETCON_LLM_MODEL and RETCON_LLM_KEY, else OPENAI_BASE_URL and OPENAI_API_KEY.
    OPENAI_API_KEY is never sent to an address from RETCON_LLM_URL or an option. Without a model name, the endpoint must
    serve exactly one model.

    Raises:
        InputError: there is no address or no model, or the address is invalid.
        EndpointError: no model is named, and the endpoint did not list its models.
    """
    address = url or environ.get("RETCON_LLM_URL")
    key = key or environ.get("RETCON_LLM_KEY")
    if not address:
        openai_key = environ.get("OPENAI_API_KEY")
        address = environ.get("OPENAI_BASE_URL") or (_OPENAI if openai_key else None)
        key = key or openai_key
    if not address:
        raise InputError(
            f"No endpoint is set. Set RETCON_LLM_URL (for example {_EXAMPLE_URL}), RETCON_LLM_MODEL and, if required, "
            "RETCON_LLM_KEY. Or choose a local model."
        )
    return Endpoint(address, model or environ.get("RETCON_LLM_MODEL"), key, timeout)


class Endpoint:
    """A model at an OpenAI-compatible address.

    Raises InputError if the address is invalid, or if no model is named and the endpoint does not serve exactly one.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
    ) -> None:
        from openai import OpenAI

        self.url = _check_url(url)
        self._timeout = timeout
        self._key = key.strip() if key else None
        if self._key is not None and not (self._key.isascii() and self._key.isprintable()):
            raise InputError("The endpoint's key contains invalid characters. Set it again.")
        self._client = OpenAI(api_key=self._key or "none", base_url=url, timeout=timeout, max_retries=retries)
        self._headers = _build_headers(url, self._key)
        # The settings that this server accepts; see _adapt.
        self._format, self._format_accepted = 0, False
        self._limit_name, self._sends_temperature = "max_tokens", True
        self.model = model or self._find_only_model()

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"

    def chat(self, messages: Sequence[Message], schema: ReplySchema | None, max_tokens: int) -> ChatReply:
        completion = self._request_completion(messages, schema, max_tokens)
        choices: list[Any] = getattr(completion, "choices", None) or []
        message = getattr(choices[0], "message", None) if choices else None
        if message is None:
            raise self._incompatible()
        if getattr(message, "refusal", None):
            refusal = quote(str(message.refusal), MESSAGE_LENGTH)
            raise EndpointError(f"{self.name} refused the request: {refusal}")
        text = message.content or ""
        usage = completion.usage
        return ChatReply(
            text,
            find_json(text) if schema else None,
            usage.prompt_tokens if usage else 0,
            usage.completion_tokens if usage else 0,
            choices[0].finish_reason == "length",
        )

    def _request_completion(
        self, messages: Sequence[Message], schema: ReplySchema | None, max_tokens: int
    ) -> Any:
        """The client's completion. If the server rejects a setting, the request is repeated without it."""
        from openai import BadRequestError, OpenAIError, UnprocessableEntityError

        while True:
            request: dict[str, Any] = {
                "model": self.model,
                "messages": [{"role": one.role, "content": one.content} for one in messages],
                self._limit_name: max_tokens,
                "extra_headers": self._headers,
            }
            if self._sends_temperature:
                request["temperature"] = 0
            if schema is not None and _FORMATS[self._format] != "text":
                request["response_format"] = _response_format(_FORMATS[self._format], schema)
            try:
                completion = self._client.chat.completions.create(**request)
            except (BadRequestError, UnprocessableEntityError) as error:
                if self._adapt(error, "response_format" in request):
                    continue
                failure = self._describe(error)
            except (OpenAIError, ValueError) as error:  # ValueError: the body is not JSON
                failure = self._describe(error)
            else:
                self._format_accepted = self._format_accepted or schema is not None
                return completion
            # No chaining: the client's errors contain the request with its key.
            raise failure from None

    def _adapt(self, error: "APIStatusError", formatted: bool) -> bool:
        """Change the setting that the server probably rejects, for all later requests. False if there is none."""
        message = str(error)
        if self._limit_name == "max_tokens" and "max_completion_tokens" in message:
            self._limit_name = "max_completion_tokens"
        elif self._sends_temperature and "temperature" in message:
            self._sends_temperature = False  # the model supports only one temperature
        elif formatted and not self._format_accepted:
            self._format += 1
        else:
            return False
        return True

    def _find_only_model(self) -> str:
        models = self._list_models()
        if len(models) == 1:
            return models[0]
        listed = f"it serves {', '.join(models[:_MODELS_SHOWN])}" if models else "it does not list its models"
        raise InputError(f"No model is named for {self.url}: set RETCON_LLM_MODEL; {listed}")

    def _list_models(self) -> list[str]:
        from openai import OpenAIError

        try:
            names = [one.id for one in self._client.models.list(extra_headers=self._headers).data]
        except (OpenAIError, ValueError, AttributeError, TypeError) as error:
            if getattr(error, "status_code", 0) in (404, 405) or not isinstance(error, OpenAIError):
                return []
            failure = self._describe(error)
        else:
            return [quote(name, MESSAGE_LENGTH)[1:-1] for name in names if isinstance(name, str)]
        raise failure from None

    def _describe(self, error: Exception) -> Exception:
        """The error for the user: InputError if the user must change something, else EndpointError."""
        from openai import APIConnectionError, APITimeoutError, RateLimitError

        status = getattr(error, "status_code", None)
        message = self._read_message(error)
        if isinstance(error, APITimeoutError):
            return EndpointError(
                f"{self.url} did not reply within {self._timeout:g} seconds. Retry, or raise the time limit."
            )
        if isinstance(error, APIConnectionError):
            cause = self._redact(str(error.__cause__ or error))
            return EndpointError(
                f"{self.url} cannot be reached ({cause}). Check the server, the network and the address."
            )
        if status == 401:
            problem = "rejected the key" if self._key else "requires a key, and none was sent"
            return InputError(
                f"{self.url} {problem} (401). Set RETCON_LLM_KEY (OPENAI_API_KEY is sent to OPENAI_BASE_URL only)."
            )
        if status == 403:
            return InputError(f"{self.url} does not permit this key to use {self.model} (403): {message}")
        if status == 404:
            return InputError(self._describe_not_found(message))
        if status == 429 and getattr(error, "code", None) == "insufficient_quota":
            return InputError(f"The account's quota at {self.url} is exhausted (429): {message}")
        if isinstance(error, RateLimitError):
            wait = error.response.headers.get("retry-after", "")
            when = f"in {wait} seconds" if wait.isdigit() else "in some minutes"
            return EndpointError(f"{self.url} limits the rate of requests (429). Retry {when}. {message}")
        if status is not None and status < 500:
            return InputError(f"{self.url} rejected the request ({status}): {message}")
        if status is not None:
            return EndpointError(f"{self.url} failed ({status}). Retry later. {message}")
        return self._incompatible()

    def _incompatible(self) -> InputError:
        return InputError(
            f"The reply of {self.url} is not that of an OpenAI-compatible endpoint. The address often ends in /v1."
        )

    def _describe_not_found(self, message: str) -> str:
        try:
            models = self._list_models()
        except (InputError, EndpointError):
            models = []
        if models:
            listed = ", ".join(models[:_MODELS_SHOWN])
            return f"{self.url} has no model {self.model!r} (404); it serves {listed}"
        return f"{self.url} has no such model or address (404). Addresses often end in /v1. {message}"

    def _read_message(self, error: Exception) -> str:
        """The server's error message."""
        body = getattr(error, "body", None)
        inner = body.get("message") if isinstance(body, dict) else body
        return self._redact(inner if isinstance(inner, str) else str(error))

    def _redact(self, text: str) -> str:
        # Redact before the text is shortened: half a key is still a secret.
        return quote(text.replace(self._key, "…") if self._key else text, MESSAGE_LENGTH)


def _build_headers(url: str, key: str | None) -> dict[str, Any]:
    """Omit the authorization without a key. Send the environment's OpenAI account only to OpenAI."""
    from openai import Omit

    omitted = [] if key else ["Authorization"]
    if urlsplit(url).hostname != urlsplit(_OPENAI).hostname:
        omitted += ["OpenAI-Organization", "OpenAI-Project"]
    return {name: Omit() for name in omitted}


def _check_url(url: str) -> str:
    """The address without its query, which may contain a key."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise InputError(f"The endpoint's address is not a valid URL. Example: {_EXAMPLE_URL}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        shown = quote(url.rpartition("@")[2], MESSAGE_LENGTH)
        raise InputError(f"The endpoint's address {shown} is not a valid URL. Example: {_EXAMPLE_URL}")
    if parts.username is not None:
        raise InputError(
            "The endpoint's address contains a user or a password. Set the key as RETCON_LLM_KEY instead."
        )
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/")


def _response_format(kind: str, schema: ReplySchema) -> dict[str, Any]:
    if kind == "json_object":
        return {"type": kind}
    return {"type": kind, "json_schema": {"name": schema.name, "schema": schema.json, "strict": True}}
