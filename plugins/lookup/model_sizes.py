# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Lookup ``gpu_cluster.platform.model_sizes``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError

from ansible.errors import AnsibleLookupError
from ansible.module_utils.urls import open_url
from ansible.plugins.lookup import LookupBase
from ansible.utils.display import Display

from ..plugin_utils.models import slug

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCUMENTATION = r"""
name: model_sizes
short_description: The config.json of models and the bytes of their weights
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description:
  - Looks first for C(<directory>/<slug>.json) on the control node, then for C(config.json) in the model's C(source),
    among I(files) and on the control node, and then asks the hub. A hub that can't be reached is asked once.
  - The bytes of the weights are those that C(model.safetensors.index.json) names, in the same place; small models have
    none.
  - A model whose file can't be had is left out, with a warning.
options:
  _terms:
    description: The models, as in C(llm_models).
    type: list
    elements: dict
    required: true
  directory:
    description: Directory with a C(config.json) for each model that is found nowhere else, named by the model's slug.
    type: path
    required: true
  files:
    description: Path to the text of files of models' directories that were read elsewhere, such as on the nodes.
    type: dict
    default: {}
  hub_url:
    description: Address of the hub; empty asks none.
    type: str
    default: ""
  hub_token:
    description: Token for models that the hub doesn't give to everyone.
    type: str
    default: ""
"""

EXAMPLES = r"""
sizes: "{{ lookup('gpu_cluster.platform.model_sizes', *llm_models, directory=inventory_dir ~ '/model_configs') }}"
"""

RETURN = r"""
_raw:
  description: One dictionary with C(configs) and C(weights), both by model id.
  type: list
  elements: dict
"""

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_TIMEOUT_S = 20


class Hub:
    """A server that has models' files at ``<model>/resolve/main/<file>``.

    Args:
        url: its address.
        token: what it is shown; empty: nothing.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._unreachable = ""

    def read(self, model: str, file: str) -> str:
        """A file's text.

        Raises:
            OSError: it can't be had; the message says why.
        """
        url = f"{self._url}/{model}/resolve/main/{file}"
        if self._unreachable:
            raise OSError(f"{url}: {self._unreachable}")
        try:
            with open_url(url, headers=self._headers, timeout=_TIMEOUT_S) as response:
                return str(response.read().decode("utf-8"))
        except HTTPError as error:
            raise OSError(f"{url}: {error.code} {error.reason}") from error
        except URLError as error:
            self._unreachable = str(error.reason)
            raise OSError(f"{url}: {error.reason}") from error


def find_sizes(
    models: Sequence[Mapping[str, Any]], directory: Path, hub: Hub | None, files: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The sizes of models.

    Args:
        models: entries of ``llm_models``.
        directory: where a ``config.json`` may lie under the name of a model's slug.
        hub: where to ask for the others.
        files: path to the text of files that were read elsewhere.

    Returns:
        ``configs`` and ``weights`` by model id, and what could not be had, each with the reason.

    Raises:
        ValueError: a file is no JSON; the message names it.
    """
    configs, weights, missing = {}, {}, []
    for model in models:
        name, source = str(model["id"]), str(model.get("source") or model["id"])
        own = directory / f"{slug(name)}.json"
        try:
            if own.is_file():
                configs[name] = _parsed(own.read_text(encoding="utf-8"), str(own))
                continue
            configs[name] = _parsed(_read(source, _CONFIG, hub, files or {}), f"{_CONFIG} of {source}")
        except OSError as error:
            missing.append(f"{name}: {error}. Or put its {_CONFIG} at {own}.")
            continue
        try:
            index = _parsed(_read(source, _INDEX, hub, files or {}), f"{_INDEX} of {source}")
        except OSError:
            # One file of weights has no index.
            continue
        if isinstance(index.get("metadata", {}).get("total_size"), int):
            weights[name] = index["metadata"]["total_size"]
    return {"configs": configs, "weights": weights}, missing


def _read(source: str, file: str, hub: Hub | None, files: Mapping[str, str]) -> str:
    if source.startswith("/"):
        path = Path(source) / file
        return files[str(path)] if str(path) in files else path.read_text(encoding="utf-8")
    if hub is None:
        raise OSError(f"{source} is a hub's model, and no hub is to be asked")
    return hub.read(source, file)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no JSON object")
    return found


class LookupModule(LookupBase):  # type: ignore[misc]
    """Ansible's entry point."""

    def run(
        self,
        terms: list[dict[str, Any]],
        variables: Any = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Return one dictionary for all models."""
        self.set_options(var_options=variables, direct=kwargs)
        url, token = self.get_option("hub_url"), self.get_option("hub_token")
        try:
            found, missing = find_sizes(
                terms,
                Path(self.get_option("directory")),
                Hub(url, token) if url else None,
                self.get_option("files"),
            )
        except ValueError as error:
            raise AnsibleLookupError(str(error)) from error
        for line in missing:
            Display().warning(line)
        return [found]
