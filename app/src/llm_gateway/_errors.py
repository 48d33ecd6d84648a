"""The error envelope of the API contract: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json

_TYPES = {401: "authentication_error", 408: "timeout_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
# Seconds after which a client may try again when the service can't answer now.
RETRY_AFTER_S = 2
# Says that an error is the contract's own, and which; whoever passes it on to a client takes it away.
CODE_HEADER = "x-llm-error-code"

UNKNOWN_MODEL = "The model does not exist or you may not use it. GET /v1/models lists what there is."
UNAVAILABLE = "The model can't answer right now. Try again in a few seconds."
BROKEN_STREAM = "The model stopped amid its answer. Try again."
INTERNAL = "The service failed. The operator finds the reason in its log under the X-Request-Id."
UNKNOWN_URL = "There is nothing at this URL."
METHOD_NOT_ALLOWED = "This URL doesn't take that method."


class ApiError(Exception):
    """An error as a client gets it.

    Args:
        status: the HTTP status, which decides the ``type``.
        message: what is wrong and what to do; never text from the request.
        code: the contract's code.
        param: the parameter at fault.
    """

    def __init__(self, status: int, message: str, code: str | None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> bytes:
        """The envelope."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        """The headers that go with the envelope."""
        headers = {"content-type": "application/json", CODE_HEADER: self.code or "null"}
        if self.status == 503:
            headers["retry-after"] = str(RETRY_AFTER_S)
        return headers

    def event(self) -> bytes:
        """The last event of a stream that can't go on; no ``[DONE]`` follows it."""
        return b"data: " + self.body() + b"\n\n"
