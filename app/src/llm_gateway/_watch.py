"""Wait until the applications of a Serve config run, saying what happens meanwhile, and why if it doesn't."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from llm_gateway._serve_api import ServeApi, ServeApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_POLL_S = 2.0
# The line that ends a Python traceback, also behind vLLM's "(EngineCore pid=7) ERROR 11-23 01:02:03 [core.py:1] ".
_ERROR_LINE = re.compile(r"((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b(?:\(.*\))?: .+)$")
# These only say that something else failed.
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|See (?:root cause|stack trace)"
    r"|RayTaskError|ActorDiedError|RayActorError"
)


class DeployError(Exception):
    """An application failed, or isn't running in time. The message says which, and why."""


def root_cause(log: str) -> str | None:
    """The last error in a log that isn't the consequence of another one.

    Args:
        log: lines of a replica's standard error.

    Returns:
        Such as ``ValueError: …``, or None where there is no error.
    """
    errors = [match.group(1) for line in log.splitlines() if (match := _ERROR_LINE.search(line))]
    causes = [error for error in errors if not _CONSEQUENCE.search(error)]
    return (causes or errors or [None])[-1]


def failure(api: ServeApi, name: str, application: Mapping[str, Any]) -> str:
    """Why an application failed, in a few lines."""
    try:
        cause = root_cause(api.last_replica_log(name))
    except ServeApiError:
        cause = None
    messages = [application.get("message", "")]
    messages += [d.get("message", "") for d in application.get("deployments", {}).values()]
    said = max(messages, key=len).strip()
    # Serve's own message carries whole tracebacks; its first line says what Serve did about it.
    return f"application {name} failed: {cause or root_cause(said) or said}\n{said.partition(chr(10))[0]}".strip()


def wait_until_running(
    api: ServeApi,
    names: Iterable[str],
    timeout_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when all of the applications are RUNNING and no other is left.

    Args:
        api: the cluster.
        names: the applications of the config.
        timeout_s: seconds to wait at the most.
        say: takes a line whenever something changed.
        clock: seconds, monotonic.
        sleep: waits for seconds.

    Raises:
        DeployError: an application failed to deploy, or isn't RUNNING in time.
    """
    wanted = set(names)
    start = clock()
    said: dict[str, str] = {}
    while True:
        try:
            now = api.applications()
        except ServeApiError as error:
            now, lines = {}, {"": str(error)}
        else:
            lines = {name: _line(now[name]) for name in sorted(now)}
        for name, line in lines.items():
            if said.get(name) != line:
                say(f"{clock() - start:4.0f} s  {name}: {line}" if name else f"{clock() - start:4.0f} s  {line}")
        said = lines
        failed = [name for name in sorted(wanted & now.keys()) if now[name]["status"] == "DEPLOY_FAILED"]
        if failed:
            raise DeployError("\n".join(failure(api, name, now[name]) for name in failed))
        if now.keys() == wanted and all(application["status"] == "RUNNING" for application in now.values()):
            return
        if clock() - start > timeout_s:
            late = sorted(name for name in wanted if now.get(name, {}).get("status") != "RUNNING")
            reasons = [failure(api, name, now[name]) for name in late if name in now]
            what = ", ".join(late) or "old applications are left"
            raise DeployError("\n".join([f"not running after {timeout_s:.0f} s: {what}", *reasons]))
        sleep(_POLL_S)


def _line(application: Mapping[str, Any]) -> str:
    replicas: list[str] = [
        replica["state"]
        for deployment in application.get("deployments", {}).values()
        for replica in deployment.get("replicas", [])
    ]
    counts = ", ".join(f"{replicas.count(state)} {state.lower()}" for state in sorted(set(replicas)))
    return f"{application['status']} ({counts})" if counts else str(application["status"])
