"""Which model a request's body asks for."""

from __future__ import annotations

import json
from email.message import Message
from typing import NoReturn

from llm_gateway._errors import ApiError

_NO_MODEL = "The body needs a `model`, a string. GET /v1/models lists them."


def model_of_json(body: bytes) -> str:
    """The name in a JSON body.

    Raises:
        ApiError: it is no JSON, or has no such name.
    """
    try:
        request = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "The request body is not valid JSON.", "invalid_json") from error
    name = request.get("model") if isinstance(request, dict) else None
    if not isinstance(name, str):
        raise ApiError(400, _NO_MODEL, None, "model")
    return name


def _refuse_constant(_: str) -> NoReturn:
    # NaN and the infinities, which Python takes and JSON doesn't have.
    raise ValueError


def model_of_form(body: bytes, content_type: str) -> str:
    """The name in the field ``model`` of a body of ``multipart/form-data``.

    Raises:
        ApiError: there is no such field.
    """
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    for part in body.split(b"--" + boundary.encode(errors="replace")) if boundary else ():
        head, _, value = part.partition(b"\r\n\r\n")
        disposition = Message()
        for line in head.strip().split(b"\r\n"):
            name, _, text = line.partition(b":")
            if name.strip().lower() == b"content-disposition":
                disposition["content-disposition"] = text.strip().decode(errors="replace")
        if disposition.get_param("name", header="content-disposition") == "model":
            return value.removesuffix(b"\r\n").decode(errors="replace")
    raise ApiError(400, "The form needs a field `model`. GET /v1/models lists them.", None, "model")
