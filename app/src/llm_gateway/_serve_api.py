"""A small client of the Ray dashboard's REST API: deploy a Serve config, watch it, find out why it failed.

Source: ``ray/dashboard/modules/serve/serve_head.py`` and ``ray/dashboard/modules/state/state_head.py`` of ray 2.60.0.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

_TIMEOUT_S = 30.0


class ServeApiError(Exception):
    """The dashboard can't be reached, refused the request, or answered something else than JSON."""


class ServeApi:
    """The REST API of one cluster.

    Args:
        url: of the dashboard, such as ``http://127.0.0.1:18265``.
        token_file: holds Ray's auth token; default: the file that RAY_AUTH_TOKEN_PATH names, if it is set.
    """

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        self._token_file = token_file or (Path(named) if named else None)

    def deploy(self, config: dict[str, Any]) -> None:
        """Make ``config`` the cluster's Serve config. Serve starts, changes and deletes applications by itself.

        Raises:
            ServeApiError: the config was refused, or there is no Serve to give it to.
        """
        self._request("PUT", "/api/serve/applications/", config)

    def applications(self) -> dict[str, dict[str, Any]]:
        """The applications by name, as ``ray.serve.schema.ApplicationDetails``.

        Raises:
            ServeApiError: the dashboard doesn't answer.
        """
        details = json.loads(self._request("GET", "/api/serve/applications/"))
        applications: dict[str, dict[str, Any]] = details["applications"]
        return applications

    def last_replica_log(self, application: str, lines: int = 400) -> str:
        """The end of what the latest dead replica of an application printed, or nothing.

        vLLM's processes write their errors to standard output, Ray's to standard error.

        Raises:
            ServeApiError: the dashboard doesn't answer.
        """
        query = urllib.parse.urlencode({"limit": 10000, "detail": 1, "timeout": 20})
        listed = json.loads(self._request("GET", f"/api/v0/actors?{query}"))
        actors = listed.get("data", {}).get("result", {}).get("result", [])
        prefix = f"ServeReplica:{application}:"
        replicas = [a for a in actors if str(a.get("class_name", "")).startswith(prefix)]
        replicas.sort(key=lambda a: (a.get("state") == "DEAD", a.get("end_time_ms") or 0), reverse=True)
        if not replicas:
            return ""
        queries = [{"actor_id": replicas[0]["actor_id"], "suffix": suffix, "lines": lines} for suffix in ("err", "out")]
        return "\n".join(self._request("GET", f"/api/v0/logs/file?{urllib.parse.urlencode(q)}") for q in queries)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> str:
        headers = {"Content-Type": "application/json"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                text: str = response.read().decode(errors="replace")
                return text
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace").strip()
            raise ServeApiError(f"{method} {path.split('?')[0]}: HTTP {error.code}: {detail[-2000:]}") from error
        except OSError as error:
            raise ServeApiError(f"{self._url} doesn't answer: {error}") from error
