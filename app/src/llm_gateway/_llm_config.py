"""From our :class:`~llm_gateway.config.ModelConfig` to the ``LLMConfig`` of ray.serve.llm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_gateway.config import ModelApplication, ModelConfig

# Seconds. ray.serve.llm's defaults are 10 and 10: a dead engine would be noticed after 20 s at the earliest.
_HEALTH_CHECK_PERIOD_S = 2
_HEALTH_CHECK_TIMEOUT_S = 10
# Seconds that a replaced replica may go on with its streams; its GPUs stay taken that long.
_GRACEFUL_SHUTDOWN_TIMEOUT_S = 600

# Serve's own limit would also hold back health checks, and its queue turns requests away that arrive at once though
# there is room; the limit that counts is the replica's (`limits`, see _contract.py).
_MAX_ONGOING_REQUESTS = 100_000

# The engine asks for threads as if it were alone on the machine; on a CPU node it shares it with Ray.
_CPU_ENV = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def llm_config(application: ModelApplication) -> dict[str, Any]:
    """The dict that ``ray.serve.llm.LLMConfig`` validates, for one model.

    Source of the names: ``ray/serve/llm`` of ray 2.60.0 (``LLMConfig``, ``ModelLoadingConfig``).
    """
    model = application.model
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": model.id, "model_source": model.source or model.id},
        "engine_kwargs": {
            # What runs at the same time is what the engine batches.
            "max_num_seqs": model.max_ongoing_requests,
            **model.engine,
            "tensor_parallel_size": model.tensor_parallel_size,
            "pipeline_parallel_size": model.pipeline_parallel_size,
        },
        "deployment_config": _deployment(model),
        "runtime_env": {"env_vars": _environment(application)},
        # Free for our own use: ModelServer reads it.
        "experimental_configs": {
            "aliases": list(model.aliases),
            "limits": {"running": model.max_ongoing_requests, "waiting": model.max_queued_requests},
        },
        "accelerator_type": model.accelerator_type,
        "accelerator_config": {"kind": application.accelerator},
    }
    if application.accelerator == "cpu":
        devices = model.tensor_parallel_size * model.pipeline_parallel_size
        config["placement_group_config"] = {"bundles": [{"CPU": 1}] * devices}
        # The replica lives in the first bundle; a CPU of its own would double what a small node must have.
        config["deployment_config"]["ray_actor_options"] = {"num_cpus": 0}
    return config


def _deployment(model: ModelConfig) -> dict[str, Any]:
    deployment: dict[str, Any] = {
        "max_ongoing_requests": _MAX_ONGOING_REQUESTS,
        "health_check_period_s": _HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": _HEALTH_CHECK_TIMEOUT_S,
        "graceful_shutdown_timeout_s": _GRACEFUL_SHUTDOWN_TIMEOUT_S,
    }
    if model.autoscaling is None:
        return {**deployment, "num_replicas": model.replicas or 1}
    return {
        **deployment,
        "autoscaling_config": {
            "min_replicas": model.autoscaling.min,
            "max_replicas": model.autoscaling.max,
            "target_ongoing_requests": model.autoscaling.target_ongoing_requests,
        },
    }


def _environment(application: ModelApplication) -> dict[str, str]:
    model = application.model
    # A deployment with a runtime_env of its own doesn't get the one of its application, which leads to this package.
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "VLLM_NO_USAGE_STATS": "1",
        # Else each piece of a stream goes from vLLM's event loop to Serve's in another thread, and both fight for the
        # interpreter's lock.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }
    if model.source is not None and model.source.startswith("/"):
        environment["HF_HUB_OFFLINE"] = "1"
    if application.accelerator == "cpu":
        environment |= _CPU_ENV
    return environment | model.env
