"""What stands behind every gateway: the same engine with the same settings, bare or under Ray."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MODEL = "bench/model"
# Shown to every host by the test hosts' tool.
MODEL_PATH = "/srv/llm/models/tiny-qwen2"
RUNTIME = "/opt/llm/runtime/current"
ENGINE_PORT = 8000

# As in inventory/group_vars/all/llm.yml.
ENGINE_ARGUMENTS: dict[str, Any] = {"max_model_len": 2048, "dtype": "bfloat16", "enforce_eager": True}
_REAL_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
# What the platform's app sets for every model on a CPU host.
_COMMON_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@dataclass(frozen=True)
class Engine:
    """One of the two engines.

    Attributes:
        name: ``mock`` or ``real``.
        ttft_ms: of the mock.
        tpot_ms: of the mock.
    """

    name: str
    ttft_ms: float
    tpot_ms: float

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the engine's processes."""
        if self.name == "real":
            return {**_COMMON_ENVIRONMENT, **_REAL_ENVIRONMENT}
        return {**_COMMON_ENVIRONMENT, **self.mock_environment, "RAYLLM_VLLM_ENGINE_CLS": "mock_engine:MockEngine"}

    @property
    def mock_environment(self) -> dict[str, str]:
        """The mock's times, also for the inventory of the arm `ours`, which reads them from its environment."""
        return {"MOCK_TTFT_MS": f"{self.ttft_ms:g}", "MOCK_TPOT_MS": f"{self.tpot_ms:g}"}

    @property
    def bare_command(self) -> list[str]:
        """The command that serves it alone, on all addresses."""
        listen = ["--host", "0.0.0.0", "--port", str(ENGINE_PORT)]
        if self.name == "mock":
            return [f"{RUNTIME}/bin/uvicorn", "mock_engine:app", *listen, "--no-access-log"]
        arguments = []
        for key, value in ENGINE_ARGUMENTS.items():
            option = "--" + key.replace("_", "-")
            arguments += [option] if value is True else [option, str(value)]
        return [f"{RUNTIME}/bin/vllm", "serve", MODEL_PATH, "--served-model-name", MODEL, *arguments, *listen]

    def serve_config(self, port: int) -> str:
        """The Serve config of ray.serve.llm as it comes: its own builder, and nothing set that needn't be.

        Args:
            port: Serve's HTTP port.

        Returns:
            JSON, which is YAML too.
        """
        model = {
            "model_loading_config": {"model_id": MODEL, "model_source": MODEL_PATH},
            "engine_kwargs": ENGINE_ARGUMENTS,
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundles": [{"CPU": 1}]},
            "runtime_env": {"env_vars": self.environment},
        }
        application = {
            "name": "llm",
            "route_prefix": "/",
            "import_path": "ray.serve.llm:build_openai_app",
            "args": {"llm_configs": [model]},
        }
        config = {"http_options": {"host": "0.0.0.0", "port": port}, "applications": [application]}
        return json.dumps(config, indent=1)
