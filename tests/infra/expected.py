"""What an inventory promises, host by host."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Model:
    """One model and its names."""

    id: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    """A file or directory, and who may do what with it."""

    path: str
    mode: int
    user: str = "root"
    group: str = "root"
    managed: bool = False


@dataclass(frozen=True)
class Host:
    """What is expected of one host.

    Attributes:
        address: what the others reach it at.
        units: active, and enabled where a boot must start them.
        ports: must be listened on; True where others may reach it, False for loopback only.
        allowed_ports: may be listened on, by the services, for others to reach.
        allowed_ranges: the same, first and last port.
    """

    name: str
    address: str
    units: tuple[str, ...]
    ports: dict[int, bool]
    allowed_ports: frozenset[int]
    allowed_ranges: tuple[tuple[int, int], ...]
    files: tuple[File, ...]


@dataclass(frozen=True)
class Expected:
    """The whole cluster."""

    raw: dict[str, Any]

    @property
    def models(self) -> list[Model]:
        return [Model(model["id"], tuple(model.get("aliases") or ())) for model in self.raw["models"]]

    @property
    def names(self) -> list[str]:
        return [name for model in self.models for name in (model.id, *model.aliases)]

    @property
    def service_user(self) -> str:
        return str(self.raw["service_user"])

    @property
    def request_timeout_seconds(self) -> float:
        return float(self.raw["request_timeout_seconds"])

    @property
    def api_key(self) -> str:
        """A client's, where the service wants one."""
        return str(self.raw["api_key"])

    @property
    def nodes(self) -> list[str]:
        return list(dict.fromkeys(self.raw["heads"] + self.raw["workers"]))

    @property
    def urls(self) -> list[str]:
        """Every entrance: each proxy, their common address, and Ray Serve on each node where no firewall closes it."""
        is_tls = self.raw["tls_source"] != "none"
        front = ("https", self.raw["https_port"]) if is_tls else ("http", self.raw["http_port"])
        entrances = [(self.raw["addresses"][host], *front) for host in self.raw["proxies"]]
        if self.raw["virtual_address"]:
            entrances.append((self.raw["virtual_address"].partition("/")[0], *front))
        if not self.raw["firewall_enabled"]:
            entrances += [(self.raw["addresses"][host], "http", self.raw["serve_port"]) for host in self.nodes]
        return [f"{kind}://{_bracketed(address)}:{port}" for address, kind, port in entrances]

    def host(self, name: str) -> Host:
        """What is expected of the host of this inventory name."""
        raw, ray = self.raw, self.raw["ray_ports"]
        head, worker, proxy = name in raw["heads"], name in raw["workers"], name in raw["proxies"]
        units: list[str] = []
        ports: dict[int, bool] = {}
        allowed: set[int] = set()
        ranges: list[tuple[int, int]] = []
        files: list[File] = []
        if raw["firewall_enabled"]:
            units.append("llm-firewall.service")
            files += [
                File("/etc/systemd/system/llm-firewall.service", 0o644, managed=True),
                File(f"{raw['config_dir']}/firewall/proven.nft", 0o644, managed=True),
            ]
        if head:
            units += ["ray-head.service", "llm-serve.service"]
            ports |= {ray["ray_node_gcs_port"]: True, raw["dashboard_port"]: False}
            files += [
                File("/etc/systemd/system/ray-head.service", 0o644, managed=True),
                File("/etc/systemd/system/llm-serve.service", 0o644, managed=True),
                File(f"{raw['config_dir']}/serve/config.yaml", 0o640, group=self.service_user, managed=True),
            ]
        if worker:
            units.append("ray-worker.service")
            files.append(File("/etc/systemd/system/ray-worker.service", 0o644, managed=True))
        if head or worker:
            pinned = (
                "node_manager",
                "object_manager",
                "dashboard_agent_grpc",
                "dashboard_agent_http",
                "runtime_env_agent",
                "metrics",
            )
            ports |= {ray[f"ray_node_{part}_port"]: True for part in pinned}
            ports[raw["serve_port"]] = True
            if raw["serve_tls_enabled"]:
                units.append("llm-serve-tls.service")
                ports[raw["serve_tls_port"]] = True
                files.append(File(f"{raw['config_dir']}/serve-tls/privkey.pem", 0o600))
            # What has a name in the inventory is known, and documented with the role.
            allowed |= {port for key, port in ray.items() if key.endswith("_port")}
            ranges += [
                (ray[f"ray_node_{part}_port_first"], ray[f"ray_node_{part}_port_last"])
                for part in ("worker", "replica")
            ]
            files += [
                File(raw["root_dir"], 0o755),
                File(raw["config_dir"], 0o755),
                File(raw["state_dir"], 0o750, self.service_user, self.service_user),
                File(f"{raw['config_dir']}/ray/token", 0o600),
                File(f"{raw['config_dir']}/ray/ray.env", 0o644, managed=True),
            ]
        if proxy:
            units.append("nginx.service")
            ports[raw["http_port"]] = True
            files += [
                File("/etc/nginx/nginx.conf", 0o644, managed=True),
                File("/etc/nginx/llm.lua", 0o644, managed=True),
                File("/etc/nginx/llm_clients.lua", 0o644, managed=True),
                File("/etc/nginx/llm-clients.json", 0o600),
                File("/etc/systemd/system/nginx.service.d/llm.conf", 0o644, managed=True),
            ]
        if proxy and raw["tls_source"] == "acme":
            ports[80] = True
        if proxy and raw["tls_source"] != "none":
            ports[raw["https_port"]] = True
            files += [
                File(f"{raw['tls_dir']}/fullchain.pem", 0o644),
                File(f"{raw['tls_dir']}/privkey.pem", 0o600),
            ]
        if proxy and raw["virtual_address"]:
            units.append("keepalived.service")
            files.append(File("/etc/keepalived/keepalived.conf", 0o644, managed=True))
        files += [
            File("/etc/sysctl.d/90-llm.conf", 0o644, managed=True),
            File("/etc/security/limits.d/90-llm.conf", 0o644, managed=True),
        ]
        return Host(name, raw["addresses"][name], tuple(units), ports, frozenset(allowed), tuple(ranges), tuple(files))


def load(path: str) -> Expected:
    """Read the file that the role ``verify`` writes."""
    return Expected(json.loads(Path(path).read_text(encoding="utf-8")))


def _bracketed(address: str) -> str:
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address
