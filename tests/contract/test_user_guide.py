"""Every example of the user guide, as printed, but for the address where another one is given."""

from __future__ import annotations

import gc
import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# The examples leave it to the interpreter to close their connections.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_GUIDE = Path(__file__).parents[2] / "docs" / "user-guide.md"
_PRINTED_URL = "http://localhost:18080"
# It shows a habit, with `...` in place of arguments; there is nothing to run.
_ILLUSTRATION = "create(...)"


class Example(NamedTuple):
    """A block of code of the guide."""

    language: str
    line: int
    code: str


def _examples(*languages: str) -> list[Example]:
    text = _GUIDE.read_text()
    blocks = re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [Example(b[1], text.count("\n", 0, b.start()) + 2, b[2]) for b in blocks]
    return [e for e in found if e.language in languages and _ILLUSTRATION not in e.code]


def _name(example: Example) -> str:
    return f"line-{example.line}"


@pytest.mark.parametrize("example", _examples("bash"), ids=_name)
def test_curl(example: Example, base_url: str) -> None:
    command = example.code.replace(_PRINTED_URL, base_url)
    done = subprocess.run(
        ["bash", "-euc", command], capture_output=True, text=True, timeout=120, check=True, stdin=subprocess.DEVNULL
    )
    if '"stream": true' in command:
        events = [line for line in done.stdout.splitlines() if line]
        assert events[-1] == "data: [DONE]"
        assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-1])
    else:
        answer = json.loads(done.stdout)
        assert "error" not in answer
        assert answer.get("object") in ("chat.completion", "list") or answer["status"] == "ok"


@pytest.fixture(scope="module")
def reader() -> Iterator[dict[str, Any]]:
    """The names that a reader has who types in the Python examples one after the other."""
    names: dict[str, Any] = {"__name__": "__main__"}
    yield names
    names.clear()
    gc.collect()


@pytest.mark.parametrize("example", _examples("python"), ids=_name)
def test_python(example: Example, base_url: str, reader: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code = compile(example.code.replace(_PRINTED_URL, base_url), f"{_GUIDE.name}:{example.line}", "exec")
    exec(code, reader)
    printed = capsys.readouterr()
    # The whole script catches its own exceptions and prints them.
    assert "Error:" not in printed.err
    if re.search(r"^print\(", example.code, re.MULTILINE):
        assert printed.out.strip()
