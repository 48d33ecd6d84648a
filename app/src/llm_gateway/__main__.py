"""``python -m llm_gateway``: check or deploy a Serve config file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from llm_gateway._serve_api import ServeApi, ServeApiError
from llm_gateway._watch import DeployError, wait_until_running
from llm_gateway.config import GatewayApplication, ModelApplication

_ARGUMENTS: dict[str, type[BaseModel]] = {
    "llm_gateway.gateway:build": GatewayApplication,
    "llm_gateway.model:build": ModelApplication,
}
_RETRY_S = 2.0


def load(path: Path) -> dict[str, Any]:
    """Read a Serve config file.

    Raises:
        ValueError: it isn't a YAML mapping with ``applications``.
    """
    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict) or not config.get("applications"):
        raise ValueError(f"{path}: not a Serve config: it must be a mapping with `applications`")
    return config


def check(config: dict[str, Any]) -> None:
    """Check a Serve config as a whole by Ray's own schema, and each application's arguments by ours.

    Raises:
        ValueError: (pydantic's ValidationError is one) a field is unknown, missing or out of range.
    """
    os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1")
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(config)
    for application in config["applications"]:
        arguments = _ARGUMENTS.get(application["import_path"])
        if arguments is None:
            raise ValueError(f"{application['name']}: import_path must be one of {', '.join(_ARGUMENTS)}")
        try:
            arguments.model_validate(application.get("args", {}))
        except ValidationError as error:
            raise ValueError(f"application {application['name']}: {error}") from error


def deploy(api: ServeApi, config: dict[str, Any], timeout_s: float) -> bool:
    """Give the config to Serve unless it has it already, waiting for a head that is still starting.

    Returns:
        Whether Serve was given something new.

    Raises:
        ServeApiError: Serve didn't take it in time.
    """
    start = time.monotonic()
    while True:
        try:
            if is_deployed(config, api.applications()):
                return False
            api.deploy(config)
        except ServeApiError as error:
            if time.monotonic() - start > timeout_s:
                raise
            _say(f"{time.monotonic() - start:4.0f} s  {str(error).splitlines()[0]}")
        else:
            return True
        time.sleep(_RETRY_S)


def is_deployed(config: dict[str, Any], applications: dict[str, dict[str, Any]]) -> bool:
    """Whether Serve was given just these applications, as far as the config says anything of them."""
    wanted = {application["name"]: application for application in config["applications"]}
    given = {name: application.get("deployed_app_config") or {} for name, application in applications.items()}
    return wanted.keys() == given.keys() and all(
        given[name].get(key) == value for name, application in wanted.items() for key, value in application.items()
    )


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 means done, 1 that it failed, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m llm_gateway", description=__doc__)
    parser.add_argument("command", choices=["check", "deploy"])
    parser.add_argument("file", type=Path, help="the Serve config")
    parser.add_argument("--wait", action="store_true", help="deploy: wait until every application is RUNNING")
    parser.add_argument("--dashboard", default="http://127.0.0.1:18265", help="URL of the Ray dashboard")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds (default: 1800)")
    options = parser.parse_args(argv)
    api = ServeApi(options.dashboard)
    try:
        config = load(options.file)
        if options.command == "check":
            check(config)
            return 0
        _say("deployed" if deploy(api, config, options.timeout) else "unchanged")
        if options.wait:
            names = [application["name"] for application in config["applications"]]
            wait_until_running(api, names, options.timeout, _say)
    except (DeployError, ServeApiError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
