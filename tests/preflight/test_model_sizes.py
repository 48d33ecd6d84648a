"""The lookup of models' sizes: a directory of the inventory's, the model's own, and a hub on loopback."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from ansible_collections.gpu_cluster.platform.plugins.lookup.model_sizes import Hub, find_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = {"hidden_size": 8}


class _Quiet(SimpleHTTPRequestHandler):
    tokens: list[str | None]

    def do_GET(self) -> None:
        self.tokens.append(self.headers["Authorization"])
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str | None]]]:
    """The address of a hub with the model ``org/m``, and the tokens that it was shown."""
    directory = tmp_path / "hub" / "org" / "m" / "resolve" / "main"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 123}}))
    tokens: list[str | None] = []
    handler = type("_Handler", (_Quiet,), {"tokens": tokens})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "hub")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tokens
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_with_its_token(hub: tuple[str, list[str | None]], tmp_path: Path) -> None:
    url, tokens = hub
    found, missing = find_sizes([{"id": "m", "source": "org/m"}], tmp_path, Hub(url, "secret"))
    assert found == {"configs": {"m": CONFIG}, "weights": {"m": 123}}
    assert not missing
    assert tokens == ["Bearer secret"] * 2


def test_what_the_hub_does_not_have_is_said(hub: tuple[str, list[str | None]], tmp_path: Path) -> None:
    found, missing = find_sizes([{"id": "Org/None"}, {"id": "org/m"}], tmp_path, Hub(hub[0], ""))
    assert found["configs"] == {"org/m": CONFIG}
    assert missing == [
        f"Org/None: {hub[0]}/Org/None/resolve/main/config.json: 404 File not found. Or put its config.json at"
        f" {tmp_path}/org-none.json."
    ]
    assert hub[1] == [None] * 3


def test_the_inventorys_own_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "org-m.json").write_text('{"hidden_size": 16}')
    assert find_sizes([{"id": "Org/M"}], tmp_path, None) == (
        {"configs": {"Org/M": {"hidden_size": 16}}, "weights": {}},
        [],
    )


def test_a_directory_of_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found, missing = find_sizes([{"id": "m", "source": str(tmp_path)}, {"id": "n"}], tmp_path / "none", None)
    assert found == {"configs": {"m": CONFIG}, "weights": {}}
    assert missing[0].startswith("n: n is a hub's model, and no hub is to be asked")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(ValueError, match=r"m\.json is no JSON"):
        find_sizes([{"id": "m"}], tmp_path, None)
