"""From vLLM's errors to the contract's.

vLLM's messages quote the request and name what is inside, so none of them is passed on: what is known is said anew, the
rest becomes a sentence about the parameter at fault. The engine's own words go to the replica's log.

Source: ``vllm/entrypoints/serve/exception_handling`` and the validators that call it, of vllm 0.29.0.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from llm_gateway import _errors
from llm_gateway._errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_BY_STATUS = {
    405: (_errors.METHOD_NOT_ALLOWED, "method_not_allowed"),
    408: ("The request took too long.", "request_timeout"),
    413: ("The request is too large.", "request_too_large"),
    415: ("The body must be sent as application/json.", "unsupported_media_type"),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_CONTEXT_LENGTH = re.compile(r"(?:maximum context length|context length|max_model_len)\D{0,12}(\d+)", re.IGNORECASE)
# Messages of pydantic that tell of the type alone, never of the value. Source: pydantic-core's list of error types.
_PLAIN_TYPES = re.compile(
    r"(missing|.*_type|.*_parsing|greater_than(_equal)?|less_than(_equal)?|too_(short|long)|string_too_(short|long)|finite_number)\Z"
)
# The parameter that holds the prompt, where it isn't `input`.
_PROMPTS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/messages": "messages",
    "/tokenize": "prompt",
}
# The engine's names, by the path where the API has another one.
_OTHER_NAMES: dict[tuple[str, str | None], str] = {
    ("/v1/responses", "max_tokens"): "max_output_tokens",
    ("/v1/chat/completions", "logprobs"): "top_logprobs",
}
_SUBJECT = re.compile(r"`?([a-z_]{1,32})`? must be ")
_ABOUT_PROMPT = re.compile(r"chat template|at least one prompt|ChatCompletion\w*Part|'NoneType' object is not iterable")
_ABOUT_TOOLS = re.compile(r"tool[ _-](choice|call)")
# What a request lacks or has wrong when vLLM's own validators refuse it, by the parameter that they name.
_ADVICE = {
    "max_tokens": "must be at least 1 and leave room for the prompt in the model's context",
    "max_completion_tokens": "must be at least 1 and leave room for the prompt in the model's context",
    "messages": "must be a list with at least one message, of roles and contents that the model takes",
    "stream_options": "can only be used with `stream: true`",
    "temperature": "must be between 0 and 2",
    "top_p": "must be greater than 0 and at most 1",
    "top_logprobs": "must be between 0 and the server's maximum, and needs `logprobs: true`",
    "n": "must be at least 1, and exactly 1 with greedy sampling",
    "presence_penalty": "must be between -2 and 2",
    "frequency_penalty": "must be between -2 and 2",
    "tool_choice": "must be one of the request's `tools`, or a mode that this server has turned on",
}


def from_validation(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The error for a body that doesn't fit the schema.

    Args:
        errors: ``RequestValidationError.errors()``.
    """
    if any(error["type"] == "json_invalid" for error in errors):
        return ApiError(400, "The body is not valid JSON.", "invalid_json")
    for error in errors:
        # What a validator of vLLM's has raised knows its parameter.
        named = getattr(error.get("ctx", {}).get("error"), "parameter", None)
        if isinstance(named, str):
            return _bad_value(_clean([named]))
    paths = [_clean(error["loc"][1:] if error["loc"][:1] == ("body",) else error["loc"]) for error in errors]
    # A union says once per variant what is wrong: what all variants refuse is what is wrong.
    param = Counter(paths).most_common(1)[0][0] if paths else None
    types = {error["type"] for error, path in zip(errors, paths, strict=True) if path == param}
    if param and types == {"missing"}:
        return ApiError(400, f"`{param}` is missing.", None, param)
    messages = {error["msg"] for error, path in zip(errors, paths, strict=True) if path == param}
    if param and len(messages) == 1 and all(map(_PLAIN_TYPES.match, types)):
        return ApiError(400, f"`{param}`: {messages.pop()}.", None, param)
    return _bad_value(param)


def from_response(status: int, body: bytes, *, path: str, engine_is_dead: bool) -> ApiError:
    """The error for a response of vLLM's, or of FastAPI's around it.

    Args:
        status: its HTTP status, 400 or higher, or the ``code`` in the error event of a stream.
        body: its body.
        path: what was asked, such as ``/v1/chat/completions``.
        engine_is_dead: whether the replica can't answer any more.
    """
    if status >= 500 and status != 501:
        if engine_is_dead or status == 503:
            return ApiError(503, _errors.UNAVAILABLE, "service_unavailable")
        return ApiError(500, _errors.INTERNAL, "internal_error")
    error = _error_of(body)
    message, param = str(error.get("message") or error.get("detail")), error.get("param")
    if status == 404:
        if error.get("type") == "NotFoundError":
            return ApiError(404, _errors.UNKNOWN_MODEL, "model_not_found", "model")
        return ApiError(404, "This model doesn't have this URL.", "unknown_url")
    if status in _BY_STATUS:
        text, code = _BY_STATUS[status]
        return ApiError(status, text, code)
    if status == 501:
        return ApiError(400, "This model doesn't do what was asked of it at this URL.", None)
    if limit := _CONTEXT_LENGTH.search(message):
        return ApiError(
            400,
            f"The prompt and the tokens asked for are longer than this model's context of {limit[1]} tokens.",
            "context_length_exceeded",
            _PROMPTS.get(path, "input"),
        )
    if "parsing the body" in message:
        return ApiError(400, "The body is not valid JSON.", "invalid_json")
    named = _clean([param]) if isinstance(param, str) else _named_in(message, path)
    return _bad_value(_OTHER_NAMES.get((path, named), named))


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return error if isinstance(error, dict) else {}


def _bad_value(param: str | None) -> ApiError:
    if param is None:
        return ApiError(400, "The request has a value that this model doesn't take.", None)
    advice = _ADVICE.get(param, "has a value that this model doesn't take")
    return ApiError(400, f"`{param}` {advice}.", None, param)


def _clean(loc: Iterable[object]) -> str | None:
    """A path such as ``messages[0].role``, without the names of pydantic's variants and validators."""
    path = ""
    for part in (
        piece for segment in loc for piece in (str(segment).split(".") if isinstance(segment, str) else [segment])
    ):
        if isinstance(part, int):
            path += f"[{part}]"
        elif isinstance(part, str) and _NAME.match(part) and part not in _VARIANTS:
            path += f".{part}" if path else part
            # Deeper names may be the client's own: keys of a schema, of tools' arguments, of biases.
            if not path.startswith("messages"):
                break
    return path or None


def _named_in(message: str, path: str) -> str | None:
    """The parameter that a message is about, where vLLM doesn't say."""
    if found := _SUBJECT.match(message):
        return found[1]
    if _ABOUT_PROMPT.search(message):
        return _PROMPTS.get(path, "input")
    return "tool_choice" if _ABOUT_TOOLS.search(message) else None


# Markers in pydantic's paths that look like names.
_VARIANTS = frozenset({"body", "str", "int", "float", "bool", "list", "dict", "none", "json", "is", "constrained"})
