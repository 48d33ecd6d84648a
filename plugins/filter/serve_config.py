# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.serve_config``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.models import slug

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DOCUMENTATION = r"""
name: serve_config
short_description: The Ray Serve config of a list of models
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - One application per model, C(model-<slug>) at C(/m/<slug>), and the application C(gateway) at C(/).
  - The arguments are those that the package C(llm_gateway) declares in C(config.py); a model goes in as it stands.
options:
  _input:
    description: The value of C(llm_models).
    type: list
    elements: dict
    required: true
  app_path:
    description: Directory on every node that holds the package C(llm_gateway).
    type: path
    required: true
  serve_port:
    description: Ray Serve's HTTP port, on every node.
    type: int
    required: true
  node_count:
    description: Number of nodes of the Ray cluster; each gets a replica of the gateway.
    type: int
    required: true
  max_body_mib:
    description: Largest body of a request to the gateway, in MiB.
    type: int
    required: true
  accelerator:
    description: What the engines run on, C(gpu) or C(cpu).
    type: str
    choices: [gpu, cpu]
    required: true
"""

EXAMPLES = r"""
config: "{{ llm_models | gpu_cluster.platform.serve_config(
  app_path='/opt/llm/app/1', serve_port=18000, node_count=2, max_body_mib=32, accelerator='gpu') }}"
"""

RETURN = r"""
_value:
  description: A dictionary in the shape of Ray's C(ServeDeploySchema).
  type: dict
"""

# nginx keeps its idle connections for a shorter time than this, so that it never sends on one that Serve is closing.
KEEP_ALIVE_SECONDS = 90


def serve_config(
    models: Sequence[Mapping[str, Any]],
    *,
    app_path: str,
    serve_port: int,
    node_count: int,
    max_body_mib: int,
    accelerator: str,
) -> dict[str, Any]:
    """Return the Serve config (``ray.serve.schema.ServeDeploySchema``) of the inventory's models."""
    runtime_env = {"env_vars": {"PYTHONPATH": app_path}}
    routes = [
        {"id": model["id"], "slug": slug(model["id"]), "aliases": list(model.get("aliases", ()))} for model in models
    ]
    gateway = {
        "name": "gateway",
        "route_prefix": "/",
        "import_path": "llm_gateway.gateway:build",
        "runtime_env": runtime_env,
        "args": {"models": routes, "nodes": node_count, "port": serve_port, "max_body_mib": max_body_mib},
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": serve_port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS},
        "logging_config": {"encoding": "JSON", "log_level": "INFO"},
        "applications": [
            gateway,
            *(
                {
                    "name": f"model-{slug(model['id'])}",
                    "route_prefix": f"/m/{slug(model['id'])}",
                    "import_path": "llm_gateway.model:build",
                    "runtime_env": runtime_env,
                    "args": {"model": model, "accelerator": accelerator},
                }
                for model in models
            ),
        ],
    }


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"serve_config": serve_config}
