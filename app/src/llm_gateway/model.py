"""The Serve application of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_gateway._llm_config import llm_config
from llm_gateway.config import ModelApplication

if TYPE_CHECKING:
    from ray.serve import Application


def build(args: dict[str, Any]) -> Application:
    """Build the application that serves one model.

    The replica that runs the engine is the ingress itself, so requests go from HAProxy straight to it. ray.serve.llm's
    ``build_openai_app`` would set a router beside it that HAProxy asks before every request: a process on each node and
    a connection per request, for a choice (round robin) that HAProxy's own least connections makes better.

    Args:
        args: the fields of :class:`~llm_gateway.config.ModelApplication`.

    Returns:
        What ``import_path`` in the Serve config names.

    Raises:
        pydantic.ValidationError: a field is unknown, missing or out of range.
        ValueError: vLLM doesn't know an engine argument.
    """
    application = ModelApplication.model_validate(args)

    from ray import serve
    from ray.serve.llm import LLMConfig, build_llm_deployment

    from llm_gateway.server import ModelServer

    return build_llm_deployment(
        LLMConfig(**llm_config(application)), name_prefix="Model:", deployment_cls=serve.ingress()(ModelServer)
    )
