"""The OpenAPI document that we publish: vLLM's own, cut down to what clients can reach, with our errors in it."""

from __future__ import annotations

import re
from typing import Any

from llm_gateway._routes import MODEL_PATHS

_ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERROR_STATUSES = ("400", "401", "404", "405", "408", "413", "415", "429", "500", "503", "504")
_MODEL_CARD = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
_MODEL_LIST = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    },
}
_HEALTH = {
    "type": "object",
    "required": ["status", "models"],
    "properties": {
        "status": {"enum": ["ok", "degraded", "unavailable"]},
        "models": {"type": "object", "additionalProperties": {"enum": ["ok", "loading", "unavailable"]}},
    },
}
_REFERENCE = re.compile(r"#/components/schemas/(.+)")


def document(of_models: list[dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the whole service.

    Args:
        of_models: the documents of vLLM's applications, one per model that answers; where two have the same path or
            schema, the first one's is taken.
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for one in reversed(of_models):
        schemas |= one.get("components", {}).get("schemas", {})
        paths |= {path: item for path, item in one["paths"].items() if path in MODEL_PATHS}
    ours = {"Error": _ERROR, "Model": _MODEL_CARD, "ModelList": _MODEL_LIST, "Health": _HEALTH}
    shown = {
        **{path: {"post": _with_errors(item["post"])} for path, item in sorted(paths.items()) if "post" in item},
        "/v1/models": _get("The models that answer now", "ModelList"),
        "/v1/models/{model}": _get("One model", "Model", parameter="model"),
        "/v1/openapi.json": _get("This document"),
        "/health": _get("How the service is, model by model", "Health", unwell="Health"),
        "/health/ready": _get("Whether every model answers", "Health", unwell="Health"),
        "/health/live": _get("Whether the process answers"),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "GPU Cluster Platform", "version": "1"},
        "paths": shown,
        "components": {"schemas": _reached(shown, schemas | ours)},
    }


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _with_errors(operation: dict[str, Any]) -> dict[str, Any]:
    answers = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
    errors = {status: {"description": "Error", "content": _content("Error")} for status in _ERROR_STATUSES}
    return {**operation, "responses": {**answers, **errors}}


def _get(summary: str, schema: str | None = None, *, unwell: str = "Error", parameter: str = "") -> dict[str, Any]:
    right: dict[str, Any] = {"description": "OK"} | ({"content": _content(schema)} if schema else {})
    operation: dict[str, Any] = _with_errors({"summary": summary, "responses": {"200": right}})
    operation["responses"]["503"]["content"] = _content(unwell)
    if parameter:
        operation["parameters"] = [{"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}]
    return {"get": operation}


def _reached(root: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The schemas that a document refers to, also by way of others."""
    reached: dict[str, Any] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            waiting += node.values()
            found = _REFERENCE.match(str(node.get("$ref", "")))
            if found and found[1] in schemas and found[1] not in reached:
                reached[found[1]] = schemas[found[1]]
                waiting.append(schemas[found[1]])
    return dict(sorted(reached.items()))
