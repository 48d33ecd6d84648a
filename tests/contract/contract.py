"""What every answer of the service must look like, whoever made it: ``check`` it.

Nothing in here needs pytest: ``load.py`` uses it too. Source: the table of the design, "The API contract".
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterable

# Stands in every string that the tests send; no error may say it back.
CANARY = "kanarienvogel"
# Seconds. A long answer of a busy service may take this; no test asks for one.
TIMEOUT_S = 60.0
BODY_LIMIT = 32 * 2**20

# They take a JSON object by POST, and its `model` decides where it goes.
JSON_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/score",
    "/v1/rerank",
    "/v2/rerank",
    "/score",
    "/rerank",
    "/classify",
    "/pooling",
    "/tokenize",
    "/detokenize",
)
# The same as a form with a file in it.
FORM_PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations")
HEALTH_PATHS = ("/health", "/health/live", "/health/ready")
GET_PATHS = (*HEALTH_PATHS, "/v1/models", "/v1/openapi.json")

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Kind(NamedTuple):
    """What the contract says of a status."""

    type: str
    # None: null, or any code of the parameter's own.
    codes: frozenset[str] | None


def _kind(type_: str, *codes: str) -> Kind:
    return Kind(type_, frozenset(codes) or None)


# There is no 502: a user gets it as 503.
ERRORS = {
    400: _kind("invalid_request_error"),
    401: _kind("authentication_error", "invalid_api_key"),
    404: _kind("invalid_request_error", "model_not_found", "unknown_url"),
    405: _kind("invalid_request_error", "method_not_allowed"),
    408: _kind("timeout_error", "request_timeout"),
    413: _kind("invalid_request_error", "request_too_large"),
    415: _kind("invalid_request_error", "unsupported_media_type"),
    429: _kind("rate_limit_error", "rate_limit_exceeded"),
    500: _kind("server_error", "internal_error"),
    503: _kind("service_unavailable_error", "model_loading", "overloaded", "service_unavailable"),
    504: _kind("timeout_error", "request_timeout"),
}

_INTERNALS = (
    re.compile(r"traceback|\.py\b|pydantic|vllm|\bray\b|haproxy|nginx|uvicorn|exception|<html|\bobject at 0x", re.I),
    # Class names, file paths, addresses.
    re.compile(r"\b[A-Z]\w*Error\b|<class |(?<!\w)/(usr|opt|home|root|var|tmp|etc|srv|mnt|proc|dev)/"),
    re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b"),
)


@dataclass(frozen=True)
class Answer:
    """An answer as it came over the wire, its header names in lower case."""

    method: str
    path: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    sent_id: str | None = None

    def header(self, name: str) -> str | None:
        """A header's value, or None where it is missing."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def media_type(self) -> str:
        """The content type without its parameters."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()


class Event(NamedTuple):
    """An event of a stream: its name, if it has one, and its data as it came."""

    name: str | None
    data: str


def answer_of(response: httpx.Response) -> Answer:
    """The answer in a response that has been read."""
    return Answer(
        method=response.request.method,
        path=response.request.url.path,
        status=response.status_code,
        headers=tuple((name.lower(), value) for name, value in response.headers.multi_items()),
        body=response.content,
        sent_id=response.request.headers.get("x-request-id"),
    )


def check(answer: Answer | httpx.Response) -> None:
    """Fail where an answer is outside the contract.

    Raises:
        AssertionError: with everything that is wrong with it.
    """
    answer = answer_of(answer) if isinstance(answer, httpx.Response) else answer
    found = violations(answer)
    shown = "\n".join(f"- {violation}" for violation in found)
    assert not found, f"{answer.method} {answer.path} -> {answer.status}\n{shown}\n{answer.body[:1000]!r}"


def violations(answer: Answer) -> list[str]:
    """All that is outside the contract in an answer, in words."""
    found = list(_request_id(answer))
    if answer.method == "HEAD":
        if answer.status != 200 and answer.status not in ERRORS:
            found.append(f"the status {answer.status} is not the contract's")
    elif answer.status == 200:
        found += _success(answer)
    elif answer.status == 503 and answer.path in HEALTH_PATHS:
        found += _report(answer)
    else:
        found += _error(answer)
    return found


def _request_id(answer: Answer) -> Iterable[str]:
    ids = [value for name, value in answer.headers if name == "x-request-id"]
    if len(ids) != 1:
        yield f"{len(ids)} X-Request-Id headers"
    elif not SANE_REQUEST_ID.fullmatch(ids[0]):
        yield f"the X-Request-Id {ids[0]!r} is not a sane one"
    elif answer.sent_id is not None and SANE_REQUEST_ID.fullmatch(answer.sent_id) and ids[0] != answer.sent_id:
        yield f"the X-Request-Id {ids[0]!r} is not the client's {answer.sent_id!r}"


def _success(answer: Answer) -> Iterable[str]:
    if answer.media_type == "text/event-stream":
        yield from stream_violations(answer)
        return
    if answer.media_type != "application/json":
        yield f"the content type {answer.media_type!r}"
    try:
        strict_json(answer.body)
    except ValueError:
        yield "the body is not JSON"


def _report(answer: Answer) -> Iterable[str]:
    # A line per model says more than the envelope would.
    yield from _success(answer)
    yield from _retry_after(answer)
    if not re.match(rb'\{"status": ?"', answer.body):
        yield "not a report of health"


def _retry_after(answer: Answer) -> Iterable[str]:
    seconds = answer.header("retry-after")
    if not (seconds or "").isdecimal():
        yield f"Retry-After is {seconds!r}, not seconds"


def _error(answer: Answer) -> Iterable[str]:
    if answer.status not in ERRORS:
        yield f"the status {answer.status} is not the contract's"
    if answer.media_type != "application/json":
        yield f"the content type {answer.media_type!r}"
    if answer.status in (429, 503):
        yield from _retry_after(answer)
    if answer.status == 405 and not answer.header("allow"):
        yield "no Allow"
    yield from envelope_violations(answer.body, answer.status)


def envelope_violations(body: bytes | str, status: int | None = None) -> Iterable[str]:
    """All that is wrong with an error's body.

    Args:
        body: the envelope, as JSON.
        status: of the answer; None in a stream, where any error may stand.
    """
    text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else body
    for match in filter(None, (pattern.search(text) for pattern in _INTERNALS)):
        yield f"internals: {match[0]!r}"
    try:
        envelope = strict_json(text)
    except ValueError:
        yield "the body is not JSON"
        return
    # Escapes hide nothing.
    if CANARY in json.dumps(envelope, ensure_ascii=False):
        yield "an echo of the request"
    error = envelope.get("error") if isinstance(envelope, dict) else None
    if not isinstance(error, dict) or set(envelope) != {"error"} or set(error) != {"message", "type", "param", "code"}:
        yield "not the envelope"
        return
    if not isinstance(error["message"], str) or not error["message"].strip():
        yield "no message"
    for name in ("param", "code"):
        if not isinstance(error[name], str | None) or error[name] == "":
            yield f"{name} is {error[name]!r}"
    yield from _wrong_kind(error, status)


def _wrong_kind(error: dict[str, Any], status: int | None) -> Iterable[str]:
    kind = ERRORS.get(status) if status is not None else None
    if kind is None:
        if error["type"] not in {known.type for known in ERRORS.values()}:
            yield f"the type {error['type']!r}"
        return
    code = error["code"]
    if error["type"] != kind.type:
        yield f"the type {error['type']!r}, not {kind.type!r}"
    if kind.codes is not None and code not in kind.codes:
        yield f"the code {code!r}, none of {sorted(kind.codes)}"
    if kind.codes is None and isinstance(code, str) and not re.fullmatch(r"[a-z][a-z0-9_]*", code):
        yield f"the code {code!r}"
    if code == "model_not_found" and error["param"] != "model":
        yield f"the param {error['param']!r} of model_not_found"


def events(body: bytes) -> list[Event]:
    """The events of a stream.

    Raises:
        ValueError: it isn't a stream of whole events.
    """
    text = body.decode()
    if not text.endswith("\n\n"):
        raise ValueError("the last event is cut off")
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        # A line that starts with a colon is a comment, to keep the connection open.
        fields = [line.partition(": ") for line in block.split("\n") if not line.startswith(":")]
        if not fields:
            continue
        names = [name for name, _, _ in fields]
        if names not in (["data"], ["event", "data"]):
            raise ValueError(f"an event of {names}")
        found.append(Event(fields[0][2] if len(fields) == 2 else None, fields[-1][2]))
    return found


def stream_violations(answer: Answer) -> Iterable[str]:
    """All that is wrong with a stream that has ended."""
    if encoding := answer.header("content-encoding"):
        yield f"a stream with Content-Encoding {encoding!r}"
    try:
        found = events(answer.body)
    except ValueError as error:
        yield f"not a stream: {error}"
        return
    if not found:
        yield "a stream without an event"
        return
    *before, last = found
    done = [event for event in found if event.data == "[DONE]"]
    wants_done = answer.path in ("/v1/chat/completions", "/v1/completions")
    for event in found:
        if event.data == "[DONE]":
            continue
        try:
            data = strict_json(event.data)
        except ValueError:
            yield f"an event that is not JSON: {event.data[:200]!r}"
            continue
        if not isinstance(data, dict):
            yield f"an event that is not an object: {event.data[:200]!r}"
        elif "error" in data and "object" not in data and "type" not in data:
            yield from envelope_violations(event.data)
            if event is not last:
                yield "an error is not the last event"
    failed = last.data.startswith('{"error"')
    if wants_done and not failed and len(done) != 1:
        yield f"{len(done)} [DONE]"
    if any(event.data == "[DONE]" for event in before):
        yield "[DONE] is not the last event"


def strict_json(text: str | bytes) -> Any:
    """JSON as the standard has it.

    Raises:
        ValueError: it isn't, NaN and Infinity included.
    """
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Service:
    """The service that is tested. Every answer to it is checked before a test sees it.

    Args:
        url: its address, without ``/v1``.
        key: sent as a bearer token everywhere.
    """

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
            trust_env=False,
            # The system's authorities, or those of SSL_CERT_FILE.
            verify=ssl.create_default_context(),
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask, and check the answer.

        Args:
            method: the HTTP method.
            path: from the root, such as ``/v1/models``.
            **options: to ``httpx.Client.request``.
        """
        response = self.http.request(method, path, **options)
        check(response)
        return response

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET, checked."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """POST, checked."""
        return self.request("POST", path, **options)

    def models(self) -> list[str]:
        """What the service lists."""
        response = self.get("/v1/models")
        assert response.status_code == 200
        return [model["id"] for model in response.json()["data"]]

    def raw(self, request: bytes, *, method: str = "GET", path: str = "/") -> Answer:
        """Send bytes as they are over a connection of their own, and check the answer.

        Args:
            request: all of it; it should ask for the connection to be closed.
            method: the one in it, to know how the answer ends.
            path: the one in it, for messages.
        """
        address = urlsplit(self.url)
        host, is_tls = address.hostname or "localhost", address.scheme == "https"
        plain = socket.create_connection((host, address.port or (443 if is_tls else 80)), TIMEOUT_S)
        with ssl.create_default_context().wrap_socket(plain, server_hostname=host) if is_tls else plain as connection:
            # It may refuse, and close, before it has read all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                connection.sendall(request)
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            body = response.read()
            headers = tuple((name.lower(), value) for name, value in response.getheaders())
            answer = Answer(method, path, response.status, headers, body)
            response.close()
        check(answer)
        return answer


def chat(model: str, **changes: Any) -> dict[str, Any]:
    """The body of a chat of one token, with changes; ``...`` takes a parameter away."""
    body = {"model": model, "messages": [{"role": "user", "content": f"Hello {CANARY}"}], "max_tokens": 1, **changes}
    return {name: value for name, value in body.items() if value is not ...}


def error_of(response: httpx.Response | Answer) -> dict[str, str | None]:
    """The inside of the envelope of an error that was checked."""
    body = response.body if isinstance(response, Answer) else response.content
    error: dict[str, str | None] = strict_json(body)["error"]
    return error
