# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Lookup ``gpu_cluster.platform.role_specs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: role_specs
short_description: The argument specs and the defaults of all roles of a directory
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Reads C(meta/argument_specs.yml) and C(defaults/main.yml) of each role, on the control node.
  - Templates stay as they are.
  - So the inventory can be checked against the specs themselves, and no name or default has to be repeated.
options:
  _terms:
    description: Directories that hold roles.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
specs: "{{ lookup('gpu_cluster.platform.role_specs', role_path | dirname) }}"
"""

RETURN = r"""
_raw:
  description: For each directory, role name to C(options) (of all entry points together) and C(defaults).
  type: list
  elements: dict
"""


def read_roles(directory: Path) -> dict[str, dict[str, Any]]:
    """Return ``{role: {"options": {...}, "defaults": {...}}}`` for the roles of a directory.

    Raises:
        OSError: a file can't be read.
        yaml.YAMLError: a file isn't YAML.
    """
    roles: dict[str, dict[str, Any]] = {}
    for file in sorted(directory.glob("*/meta/argument_specs.yml")):
        role = file.parents[1]
        spec = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        options: dict[str, Any] = {}
        for entry_point in (spec.get("argument_specs") or {}).values():
            options.update(entry_point.get("options") or {})
        defaults_file = role / "defaults" / "main.yml"
        defaults = yaml.safe_load(defaults_file.read_text(encoding="utf-8")) if defaults_file.is_file() else None
        roles[role.name] = {"options": options, "defaults": defaults or {}}
    return roles


class LookupModule(LookupBase):  # type: ignore[misc]
    """Ansible's entry point."""

    def run(
        self,
        terms: list[str],
        variables: Any = None,  # noqa: ARG002  the base class's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, dict[str, Any]]]:
        """Return one dictionary per directory."""
        found = []
        for term in terms:
            try:
                found.append(read_roles(Path(term)))
            except (OSError, yaml.YAMLError) as error:
                raise AnsibleLookupError(f"Can't read the roles of {term}: {error}") from error
        return found
