# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Values against the options of an argument spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .findings import Say, did_you_mean

# Stands for a value about which an error is noted already, so that nothing else is said of it.
UNUSABLE = object()
TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string (put it in quotes)"),
    "path": ((str,), "a path (put it in quotes)"),
    "int": ((int,), "a whole number, without quotes"),
    "float": ((int, float), "a number, without quotes"),
    "bool": ((bool,), "true or false, without quotes"),
    "list": ((list, tuple), "a list"),
    "dict": ((Mapping,), "a dictionary"),
}


def checked(path: str, value: Any, option: Mapping[str, Any], say: Say) -> Any:
    """Check a value against its option of an argument spec.

    Returns:
        The value; of a dictionary only the keys that can be used; ``UNUSABLE`` where the value itself can't.
    """
    if value is None:
        say(path, value, "has no value. Give it one, or remove the line.")
        return UNUSABLE
    types, words = TYPES.get(str(option.get("type", "str")), ((object,), ""))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types):
        say(path, value, f"must be {words}.")
        return UNUSABLE
    choices = option.get("choices")
    if choices and value not in choices:
        say(path, value, f"there is no such choice. {did_you_mean(str(value), [str(choice) for choice in choices])}")
        return UNUSABLE
    if isinstance(value, (list, tuple)) and "elements" in option:
        element = {"type": option["elements"], "options": option.get("options")}
        return [checked(f"{path}[{number}]", item, element, say) for number, item in enumerate(value)]
    if isinstance(value, Mapping) and option.get("options"):
        return checked_keys(path, value, option["options"], say)
    return value


def checked_keys(path: str, value: Mapping[str, Any], options: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Check the keys of a dictionary against the options of a spec, and return those that can be used."""
    for key in value:
        if key not in options:
            say(f"{path}.{key}", value[key], f"there is no such key. {did_you_mean(str(key), options)}")
    for key, option in options.items():
        if option.get("required") and key not in value:
            say(f"{path}.{key}", None, f"missing, and it is required. {first_sentence(option)}")
    return {key: checked(f"{path}.{key}", value[key], option, say) for key, option in options.items() if key in value}


def unquoted_number(value: Any, option: Mapping[str, Any]) -> Any:
    """Return a whole number that came as a string: ``-e name=1`` and the environment give nothing else."""
    if option.get("type") == "int" and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value


def first_sentence(option: Mapping[str, Any]) -> str:
    """Return the first sentence of an option's description."""
    description = option.get("description", "")
    text = description if isinstance(description, str) else str(description[0])
    return re.sub(r"\b[A-Z]\(([^)]*)\)", r"\1", re.split(r"(?<=\.)\s", text)[0])
