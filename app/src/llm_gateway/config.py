"""The arguments of the applications, as the inventory writes them.

The names, requirements and defaults of :class:`ModelConfig` are those of ``llm_models`` in the role ``preflight``'s
argument spec; a contract test holds the two together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(_Strict):
    """How many replicas a model may have, and what load adds one."""

    min: NonNegativeInt = Field(description="Replicas that are always there.")
    max: PositiveInt = Field(description="Replicas at the most.")
    target_ongoing_requests: PositiveFloat = Field(
        description="Requests in flight per replica that Serve aims at (ray.serve.config.AutoscalingConfig)."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max})")
        return self


class ModelConfig(_Strict):
    """One entry of the inventory's ``llm_models``."""

    id: str = Field(min_length=1, description="The name that users write in `model`.")
    source: str | None = Field(default=None, description="Hub id or absolute path of the weights; default: the id.")
    replicas: PositiveInt | None = Field(default=None, description="A fixed number of replicas; default 1.")
    autoscaling: Autoscaling | None = Field(default=None, description="Instead of `replicas`.")
    tensor_parallel_size: PositiveInt = Field(default=1, description="GPUs that share each layer.")
    pipeline_parallel_size: PositiveInt = Field(default=1, description="Groups of GPUs that share the layers.")
    max_ongoing_requests: PositiveInt = Field(default=256, description="Requests that a replica runs at once.")
    max_queued_requests: int = Field(
        default=256, ge=-1, description="Requests that wait in a replica; more get 503 `overloaded`; -1: no limit."
    )
    accelerator_type: str | None = Field(default=None, description="Ray's name of a GPU type, such as H100.")
    aliases: tuple[str, ...] = Field(default=(), description="More names for the same model.")
    engine: dict[str, Any] = Field(default_factory=dict, description="vLLM's engine arguments, untouched.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment of the engine's processes.")

    @model_validator(mode="after")
    def _one_size(self) -> ModelConfig:
        if self.replicas is not None and self.autoscaling is not None:
            raise ValueError("replicas and autoscaling exclude each other")
        return self


class ModelApplication(_Strict):
    """The arguments of :func:`llm_gateway.model.build`."""

    model: ModelConfig
    accelerator: Literal["cpu", "gpu"] = Field(description="What the engine runs on.")


class Route(_Strict):
    """A model as the gateway knows it."""

    id: str = Field(min_length=1, description="The name that users write in `model`.")
    slug: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="Its application answers at `/m/<slug>`.")
    aliases: tuple[str, ...] = Field(default=(), description="More names for the same model.")


class GatewayApplication(_Strict):
    """The arguments of :func:`llm_gateway.gateway.build`."""

    models: tuple[Route, ...] = Field(min_length=1, description="Every model of the inventory.")
    nodes: PositiveInt = Field(description="Nodes of the cluster; each gets one replica of the gateway.")
    port: int = Field(ge=1, le=65535, description="Serve's HTTP port, the same on every node.")
    max_body_mib: PositiveInt = Field(description="Largest body of a request, in MiB.")
