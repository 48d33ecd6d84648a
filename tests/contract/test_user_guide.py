"""Every example of the user guide, as printed, but for the address and the key where others are given."""

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

    from contract import Service

# The examples leave it to the interpreter to close their connections.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_GUIDE = Path(__file__).parents[2] / "docs" / "user-guide.md"
_PRINTED_URL = "http://localhost:18080"
_PRINTED_KEY = "not-needed"
_PRINTED_MODEL = "Qwen/Qwen2.5-32B-Instruct"
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


def _code(example: Example, base_url: str, api_key: str) -> str:
    code = example.code.replace(_PRINTED_URL, base_url).replace(_PRINTED_KEY, api_key)
    if example.language == "bash" and api_key != _PRINTED_KEY:
        code = code.replace("curl ", f"curl -H 'Authorization: Bearer {api_key}' ")
    return code


@pytest.fixture(autouse=True)
def _served(service: Service) -> None:
    if _PRINTED_MODEL not in service.models():
        pytest.skip("the model of the examples is not served here")


@pytest.mark.parametrize("example", _examples("bash"), ids=_name)
def test_curl(example: Example, base_url: str, api_key: str) -> None:
    command = _code(example, base_url, api_key)
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
def test_python(
    example: Example, base_url: str, api_key: str, reader: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    code = compile(_code(example, base_url, api_key), f"{_GUIDE.name}:{example.line}", "exec")
    exec(code, reader)
    printed = capsys.readouterr()
    # The whole script catches its own exceptions and prints them.
    assert "Error:" not in printed.err
    if re.search(r"^print\(", example.code, re.MULTILINE):
        assert printed.out.strip()


@pytest.mark.parametrize("example", _examples("javascript"), ids=_name)
def test_node(example: Example, base_url: str, api_key: str, node_sdk: Path) -> None:
    done = subprocess.run(
        ["node", "--input-type=module"],
        cwd=node_sdk,
        input=_code(example, base_url, api_key),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip()
    assert not done.stderr
