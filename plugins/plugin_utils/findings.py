# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What was found to be wrong, told with the value and without a secret."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Say = Callable[[str, Any, str], None]
SECRETIVE = re.compile(r"token|secret|password|passphrase|api_?key|_key\b|\.env\b", re.IGNORECASE)


class Findings:
    """Errors in the order they were found; the same error of several hosts is one error that names them."""

    def __init__(self) -> None:
        self._hosts: dict[str, list[str]] = {}

    def add(self, text: str, hosts: Iterable[str] = ()) -> None:
        """Note an error, and the hosts it was found on."""
        known = self._hosts.setdefault(text, [])
        known.extend(host for host in hosts if host not in known)

    def texts(self, everywhere: Iterable[str]) -> list[str]:
        """Return the errors; one that is not everywhere says where it is."""
        every = set(everywhere)
        return [
            f"{text} [{'host' if len(hosts) == 1 else 'hosts'} {', '.join(hosts)}]"
            if hosts and set(hosts) != every
            else text
            for text, hosts in self._hosts.items()
        ]


def reporter(findings: Findings, hosts: Sequence[str], *, secret: bool = False) -> Say:
    """Return a function that notes ``path = value: what is wrong. What to do.``; a secret's value is left out."""

    def say(path: str, value: Any, text: str) -> None:
        findings.add(f"{path}{' (secret)' if secret else shown(path, value)}: {text}", hosts)

    return say


def shown(path: str, value: Any) -> str:
    """Return `` = value``, or a word for what may hold a secret: by its name, in an environment, in a dictionary."""
    if value is None:
        return ""
    if SECRETIVE.search(path):
        return " (not shown)"
    if isinstance(value, Mapping) and value:
        return " (a dictionary)"
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        return " (a list)"
    text = as_text(value)
    return f" = {text if len(text) <= 100 else text[:97] + '...'}"


def shown_variable(variables: Mapping[str, Any], name: str) -> str:
    """Return what :func:`shown` does, or nothing where the variable can't be rendered: its name is what is wrong."""
    try:
        return shown(name, rendered(variables, name))
    except Exception:
        return ""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return a hint: the nearest right name, or all of them."""
    known = list(candidates)
    near = nearest(name, known)
    return f"Did you mean {near}?" if near else f"There are: {', '.join(known)}."


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the candidate that is most like a name, if one is."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return found[0] if found else None


def rendered(variables: Mapping[str, Any], name: str) -> Any:
    """Return a variable. What is undefined in it raises here: Ansible may hand out a marker that raises in use."""
    value = variables[name]
    as_text(value)
    return value


def as_text(value: Any) -> str:
    """Return a value as JSON, so that control characters show."""
    return json.dumps(value, default=str, sort_keys=True)
