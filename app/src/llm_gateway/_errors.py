"""The error envelope of the API contract: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json

from fastapi.responses import JSONResponse

_TYPES = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
# Seconds after which a client may try again when the service can't answer now.
_RETRY_AFTER_S = 2
_CODE_HEADER = "X-Llm-Error-Code"


def envelope(status: int, message: str, code: str | None, param: str | None = None) -> dict[str, object]:
    """The body of an error.

    Args:
        status: the HTTP status, which decides the ``type``.
        message: what is wrong and what to do; never text from the request.
        code: the contract's code.
        param: the parameter at fault.
    """
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(status: int, message: str, code: str | None, param: str | None = None) -> JSONResponse:
    """An error as a whole response."""
    # nginx makes its own envelope of it, and hides the header.
    headers = {_CODE_HEADER: code} if code else {}
    if status == 503:
        headers["Retry-After"] = str(_RETRY_AFTER_S)
    return JSONResponse(envelope(status, message, code, param), status_code=status, headers=headers)


def error_event(status: int, message: str, code: str | None) -> bytes:
    """An error as the last event of a stream that can't go on; no ``[DONE]`` follows it."""
    return b"data: " + json.dumps(envelope(status, message, code)).encode() + b"\n\n"
