"""The Serve application of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_gateway._llm_config import llm_config
from llm_gateway.config import ModelApplication

if TYPE_CHECKING:
    from ray.serve import Application


def build(args: dict[str, Any]) -> Application:
    """Build the application that serves one model.

    Args:
        args: the fields of :class:`~llm_gateway.config.ModelApplication`.

    Returns:
        What ``import_path`` in the Serve config names. With RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1 in the environment
        (the unit of ``ray_node`` sets it) requests go from HAProxy straight to the replica that runs the engine.

    Raises:
        pydantic.ValidationError: a field is unknown, missing or out of range.
        ValueError: vLLM doesn't know an engine argument.
    """
    application = ModelApplication.model_validate(args)

    from ray.serve.llm import build_openai_app

    return build_openai_app({"llm_configs": [llm_config(application)]})
