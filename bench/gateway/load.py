"""The load host: gives cells to the worker that runs there, and takes what it measured."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, TextIO

from engines import MODEL, MODEL_PATH, RUNTIME
from lab import LOGS

if TYPE_CHECKING:
    from types import TracebackType

    from arms import Arm
    from lab import Lab
    from plan import Cell


class Load:
    """A running worker; a context manager that ends it.

    Args:
        lab: the hosts.
    """

    def __init__(self, lab: Lab) -> None:
        environment = ["env", "HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1"]
        argv = [*environment, f"{RUNTIME}/bin/python", "/opt/bench-load/load_worker.py"]
        LOGS.mkdir(parents=True, exist_ok=True)
        self._log: TextIO = (LOGS / "load.log").open("w")
        self._process = subprocess.Popen(
            lab.network.ssh_argv("load1", argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # Ctrl-C is for us: we end it.
            start_new_session=True,
        )
        self._receive()

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def run(self, arm: Arm, cell: Cell, seed: int) -> dict[str, Any]:
        """Run a cell.

        Returns:
            What vLLM measured, and ``errors``, each kind and how often.

        Raises:
            RuntimeError: the worker refused the cell, or is gone.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"argv": cell.argv(arm.url, MODEL, MODEL_PATH, seed)}) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load's worker is gone; see {LOGS.name}/load.log")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"the load's worker: {answer['error']}")
        return answer
