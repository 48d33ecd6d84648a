"""Write ``docs/roles.md``: every role with every option, from the roles' argument specs.

Run as ``python tools/role_docs.py``; with ``--check`` it only says whether the file is what it would write.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parents[1]
_DOCUMENT = _ROOT / "docs" / "roles.md"
_HEAD = """\
# Roles

Made from the roles' `meta/argument_specs.yml` by `./platform docs`; change it there.
"""


def _text(described: Any) -> str:
    sentences = described if isinstance(described, list) else [described or ""]
    return " ".join(str(sentence).strip() for sentence in sentences)


def _marked(text: str) -> str:
    for mark in ("C(", "V(", "E(", "O(", "B("):
        while (start := text.find(mark)) >= 0 and (end := text.find(")", start)) >= 0:
            text = f"{text[:start]}`{text[start + 2 : end]}`{text[end + 1 :]}"
    return text.replace("|", "\\|")


def _rows(options: dict[str, Any], prefix: str = "") -> list[str]:
    rows = []
    for name, option in options.items():
        kind = option.get("type", "str") + (f" of {option['elements']}" if "elements" in option else "")
        if "choices" in option:
            kind += ": " + ", ".join(map(str, option["choices"]))
        default = "**required**" if option.get("required") else f"`{option['default']}`" if "default" in option else ""
        rows.append(f"| `{prefix}{name}` | {kind} | {default} | {_marked(_text(option.get('description')))} |")
        rows += _rows(option.get("options", {}), f"{prefix}{name}.")
    return rows


def document() -> str:
    """The whole document, in Markdown."""
    parts = [_HEAD]
    for path in sorted((_ROOT / "roles").glob("*/meta/argument_specs.yml")):
        for entry, spec in yaml.safe_load(path.read_text())["argument_specs"].items():
            name = path.parents[1].name + ("" if entry == "main" else f", entry point `{entry}`")
            parts.append(f"## {name}\n\n{_text(spec['short_description'])}.\n")
            parts.append(_marked(_text(spec.get("description"))) + "\n")
            if spec.get("options"):
                head = "| option | type | default | meaning |\n|---|---|---|---|\n"
                parts.append(head + "\n".join(_rows(spec["options"])) + "\n")
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write or check the document; 1 means that it is out of date."""
    if "--check" not in arguments:
        _DOCUMENT.write_text(document())
        return 0
    if _DOCUMENT.read_text() == document():
        return 0
    print("docs/roles.md is out of date: ./platform docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
