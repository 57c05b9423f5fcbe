"""A stand-in for an OpenAI-compatible endpoint: an HTTP server that checks requests and replies by a rule.

`mode` is its behavior:
  plain      supports json_schema            object           supports json_object only     text  supports neither
  new-limit  requires max_completion_tokens  one-temperature  rejects a temperature
  401, 403, 404, 400, 500  rejects requests with that status
  busy       429 with Retry-After, `faults` times             exhausted  429 always
  broken     a reply without JSON, `faults` times             cut        a reply that ends at its limit
  slow       replies after `delay` seconds                    page       HTML, as from a wrong address
  thinks     a chain of thought, then the JSON in a fence
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-key"
MODEL = "stand-in"

# (system message, user message) -> the JSON value of the reply.
Rule = Callable[[str, str], Any]


class StandInEndpoint:
    """Serves on a free port until `close`. `requests` are the bodies of the requests, in order."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.mode = "plain"
        self.models = [MODEL]
        self.faults = 1
        self.delay = 2.0
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandInEndpoint
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._send_json(404, {"error": {"message": "no such page"}})
        listed = [
            {"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in self.stand_in.models
        ]
        return self._send_json(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        stand_in, body = self.stand_in, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stand_in.requests.append(body)
        stand_in.times.append(time.monotonic())
        stand_in.keys.append(self.headers.get("Authorization"))
        stand_in.headers.append(dict(self.headers))
        mode = stand_in.mode
        if self.path != "/v1/chat/completions":
            return self._error(404, "no such page")
        if mode == "page":
            return self._send(200, b"<html><body>Welcome</body></html>", "text/html")
        if mode == "401":
            return self._error(401, f"Incorrect API key provided: {self.headers.get('Authorization')}")
        if mode in ("400", "403", "404", "500"):
            return self._error(int(mode), f"no, {KEY} \x1b[2J may not\x07")
        if mode == "exhausted" or (mode == "busy" and len(stand_in.requests) <= stand_in.faults):
            return self._error(429, "slow down", {"Retry-After": "0.3" if mode == "busy" else "900"})
        if body["model"] not in stand_in.models:
            return self._error(404, f"The model {body['model']!r} does not exist")
        refusal = self._refusal(mode, body)
        if refusal:
            return self._error(400, refusal)
        if mode == "slow":
            time.sleep(stand_in.delay)
        return self._answer(mode, body)

    def _refusal(self, mode: str, body: dict[str, Any]) -> str | None:
        form = body.get("response_format", {}).get("type", "text")
        formats = {"object": ("json_object", "text"), "text": ("text",)}.get(
            mode, ("json_schema", "json_object", "text")
        )
        if form not in formats:
            return f"response_format {form} is not supported"
        if mode == "new-limit" and "max_tokens" in body:
            return "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        if mode == "one-temperature" and "temperature" in body:
            return "'temperature' does not support 0 with this model."
        if body["messages"][-1]["role"] != "user" or not {"max_tokens", "max_completion_tokens"} & set(body):
            return "the last message must be the user's, with a token limit"
        return None

    def _answer(self, mode: str, body: dict[str, Any]) -> None:
        system, user = body["messages"][0]["content"], body["messages"][1]["content"]
        text = json.dumps(self.stand_in.rule(system, user), ensure_ascii=False)
        end = "stop"
        if mode == "broken" and len(self.stand_in.requests) <= self.stand_in.faults:
            text = "I would rather talk \x1b[2J about the weather."
        if mode == "cut":
            text, end = text[: len(text) // 2], "length"
        if mode == "thinks":
            text = f"<think>{{perhaps}} so</think>Here it is:\n```json\n{text}\n```\nAnything else?"
        choice = {"index": 0, "finish_reason": end, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
        self._send_json(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            },
        )

    def _error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self._send_json(status, {"error": {"message": message, "type": "refused", "code": None}}, headers)

    def _send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), "application/json", headers)

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        # The client of a slow reply may have disconnected.
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(data)
