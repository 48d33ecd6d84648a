"""Renders a role's template as Ansible would, without a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

REPOSITORY = Path(__file__).resolve().parents[2]


class Render(Protocol):
    """The ``render`` fixture."""

    def __call__(self, role: str, template: str, /, **variables: Any) -> str: ...


class Evaluate(Protocol):
    """The ``evaluate`` fixture."""

    def __call__(self, role: str, expression: str, /, **variables: Any) -> Any: ...


@pytest.fixture(scope="session", autouse=True)
def _plugins() -> None:
    """Filters by their full name, ours and those of other collections, are only known after this."""
    init_plugin_loader()


def role_variables(role: str, **variables: Any) -> dict[str, Any]:
    """The role's defaults and constants, and over them what a play would give. Facts of no host are there."""
    loader = DataLoader()
    found: dict[str, Any] = {"ansible_facts": {}, "inventory_hostname": "host-1", "ansible_check_mode": False}
    for part in ("defaults", "vars"):
        path = REPOSITORY / "roles" / role / part / "main.yml"
        if path.exists():
            found |= loader.load_from_file(str(path), trusted_as_template=True) or {}
    return found | variables


@pytest.fixture(scope="session")
def render() -> Render:
    """``render(role, template, **variables)``: the text that the template module would put on a host."""

    def call(role: str, template: str, /, **variables: Any) -> str:
        path = REPOSITORY / "roles" / role / "templates" / template
        loader = DataLoader()
        loader.set_basedir(str(REPOSITORY / "roles" / role))
        # What the template module adds by itself.
        values = {"ansible_managed": "Ansible managed"} | role_variables(role, **variables)
        templar = Templar(loader, variables=values).copy_with_new_env(searchpath=[str(path.parent)])
        text = templar.template(
            trust_as_template(path.read_text()),
            escape_backslashes=False,
            overrides={"trim_blocks": True, "lstrip_blocks": False},
        )
        return str(text)

    return call


@pytest.fixture(scope="session")
def evaluate() -> Evaluate:
    """``evaluate(role, "{{ … }}", **variables)``: what an expression is in a task of the role."""

    def call(role: str, expression: str, /, **variables: Any) -> Any:
        templar = Templar(DataLoader(), variables=role_variables(role, **variables))
        return templar.template(trust_as_template(expression))

    return call
