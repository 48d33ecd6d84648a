# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What an argument spec can't say of a variable's value: relations within it, and what it may look like."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from .certificates import is_name
from .clients import DIGEST, LIMITS, digest, expiry
from .models import slug
from .option_values import UNUSABLE, checked

if TYPE_CHECKING:
    from .findings import Say

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
TOKEN = re.compile(r"[A-Za-z0-9_-]{32,}")
API_KEY = re.compile(r"[A-Za-z0-9_-]{32,256}")
CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# The platform's own client; see __preflight_clients.
VERIFY_CLIENT = "verify"
# An argument spec can't say what the values of a dictionary with any keys are.
CLIENT: Mapping[str, Mapping[str, Any]] = {
    "keys": {"type": "list", "elements": "str", "required": True, "description": "One key, or two to change over."},
    "expires": {"type": "str"},
    "models": {"type": "list", "elements": "str"},
    **{limit: {"type": "int"} for limit in LIMITS},
}
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TOKEN_NAME = "llm_ray_auth_token"
MAKE_TOKEN = "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))', and keep it in the vault."


def check_port_number(path: str, port: int, say: Say) -> None:
    """A port is a number of 16 bits, and 0 is none."""
    if not 1 <= port <= 65535:
        say(path, port, "not a port. Choose one from 1 to 65535.")


def check_models(path: str, models: Sequence[Any], say: Say) -> None:
    """Relations of the list of models."""
    if not models:
        say(path, models, "no models. List at least one, for example: - id: Qwen/Qwen2.5-32B-Instruct")
    names: dict[str, str] = {}
    slugs: dict[str, str] = {}
    usable = [(f"{path}[{number}]", model) for number, model in enumerate(models) if model is not UNUSABLE]
    for where, model in usable:
        check_model(where, model, say)
        if isinstance(model_id := model.get("id"), str):
            if model_id in names:
                say(f"{where}.id", model_id, f"{names[model_id]} is the same. Give each model an id of its own.")
            elif slug(model_id) in slugs:
                say(
                    f"{where}.id",
                    model_id,
                    f"makes the route /m/{slug(model_id)}, as {slugs[slug(model_id)]} does. Change one of the two.",
                )
            else:
                names[model_id] = slugs[slug(model_id)] = f"{where}.id"
    for where, model in usable:
        for number, alias in enumerate(model.get("aliases", ())):
            if alias in names:
                say(f"{where}.aliases[{number}]", alias, f"{names[alias]} is the same. Remove one of the two.")
            elif isinstance(alias, str):
                names[alias] = f"{where}.aliases[{number}]"


def check_model(where: str, model: Mapping[str, Any], say: Say) -> None:
    """Relations within one model."""
    names = [
        ("id", model.get("id")),
        *((f"aliases[{number}]", alias) for number, alias in enumerate(model.get("aliases", ()))),
    ]
    for key, name in names:
        if isinstance(name, str) and not MODEL_NAME.fullmatch(name):
            say(
                f"{where}.{key}",
                name,
                "can't be routed. Use letters, digits and . _ : / @ + -, and begin with a letter or digit.",
            )
    source = model.get("source")
    if isinstance(source, str):
        if source.startswith("/"):
            if ".." in PurePosixPath(source).parts or not source.isprintable():
                say(f"{where}.source", source, "not a plain absolute path. Write it without .. and control characters.")
        elif not HUB_ID.fullmatch(source):
            say(f"{where}.source", source, "neither a hub id (owner/name) nor an absolute path. A path begins with /.")
    at_least = {
        "replicas": 1,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "max_ongoing_requests": 1,
        "max_queued_requests": -1,
    }
    for key, least in at_least.items():
        if key in model and model[key] is not UNUSABLE and model[key] < least:
            say(f"{where}.{key}", model[key], f"too small. Use {least} or more.")
    if "replicas" in model and "autoscaling" in model:
        say(
            f"{where}.replicas",
            model["replicas"],
            "autoscaling is given too, and they exclude each other. Remove one of the two.",
        )
    if isinstance(autoscaling := model.get("autoscaling"), Mapping):
        check_autoscaling(f"{where}.autoscaling", autoscaling, say)
    for key, value in (model.get("env") or {}).items():
        if not isinstance(key, str) or not ENVIRONMENT_NAME.fullmatch(key):
            say(f"{where}.env", key, "not a name of an environment variable. Use letters, digits and _.")
        elif not isinstance(value, str):
            say(f"{where}.env.{key}", value, "must be a string (put it in quotes).")


def check_autoscaling(where: str, autoscaling: Mapping[str, Any], say: Say) -> None:
    """Relations of a model's autoscaling."""
    least, most = autoscaling.get("min", UNUSABLE), autoscaling.get("max", UNUSABLE)
    target = autoscaling.get("target_ongoing_requests", UNUSABLE)
    if least is not UNUSABLE and least < 0:
        say(f"{where}.min", least, "too small. Use 0 or more.")
    if most is not UNUSABLE and most < 1:
        say(f"{where}.max", most, "too small. Use 1 or more.")
    if least is not UNUSABLE and most is not UNUSABLE and least > most:
        say(f"{where}.min", least, f"greater than max = {most}. Exchange the two, or raise max.")
    if target is not UNUSABLE and target <= 0:
        say(f"{where}.target_ongoing_requests", target, "too small. Use more than 0.")


def check_limits(path: str, limits: Mapping[str, Any], say: Say) -> None:
    """Limits below one would let nobody in; a burst is a part of the requests."""
    for key in LIMITS:
        if isinstance(limits.get(key), int) and limits[key] < 1:
            say(f"{path}.{key}", limits[key], "too small. Use 1 or more, or remove the line for no limit.")
    if "burst" in limits and "requests_per_minute" not in limits:
        say(f"{path}.burst", limits["burst"], "there is no requests_per_minute that it could be a part of. Set both.")


def check_api_keys(path: str, clients: Mapping[str, Any], say: Say) -> None:
    """Clients that nginx could not tell apart, and keys that can be guessed or that a header can't carry."""
    owners: dict[str, str] = {}
    for name, given in clients.items():
        where = f"{path}.{name}"
        if not isinstance(name, str) or not CLIENT_NAME.fullmatch(name):
            say(
                where,
                name,
                "not a name for a client. Use a-z, 0-9, . _ and -, at most 64, and begin with a letter or digit.",
            )
        elif name == VERIFY_CLIENT:
            say(where, name, "this name is verify's own. Choose another.")
        client = checked(where, given, {"type": "dict", "options": CLIENT}, say)
        if client is UNUSABLE:
            continue
        check_limits(where, client, say)
        keys = client.get("keys", UNUSABLE)
        if keys is not UNUSABLE and len(keys) not in (1, 2):
            say(f"{where}.keys", keys, f"has {len(keys)} keys. Give one, or two while clients change to the second.")
        for number, key in enumerate(keys if keys is not UNUSABLE else ()):
            if not isinstance(key, str):
                continue
            place = f"{where}.keys[{number}]"
            if not API_KEY.fullmatch(key) and not DIGEST.fullmatch(key):
                say(
                    place,
                    key,
                    "must be 32 to 256 of the characters A-Z a-z 0-9 _ -, or sha256: and 64 of 0-9 a-f, and this has"
                    f" {len(key)} characters. Make one with: ansible-playbook playbooks/keys.yml -e client={name}",
                )
            elif (known := owners.setdefault(digest(key), place)) != place:
                say(place, key, f"{known} is the same. Give each client keys of its own.")
        expires = client.get("expires")
        if isinstance(expires, str):
            try:
                expiry(expires)
            except ValueError:
                say(f"{where}.expires", expires, 'not a day. Write it like "2027-06-30".')
        for number, model in enumerate(client.get("models") or ()):
            if not isinstance(model, str):
                continue
            if not MODEL_NAME.fullmatch(model):
                say(f"{where}.models[{number}]", model, "not the name of a model. Use an id or alias of llm_models.")


def check_token(path: str, token: str, say: Say) -> None:
    """A token that can be guessed, or that a header can't carry."""
    if not TOKEN.fullmatch(token):
        say(
            path,
            token,
            f"must be 32 or more of the characters A-Z a-z 0-9 _ -, and this has {len(token)} characters. {MAKE_TOKEN}",
        )


def check_user(path: str, user: str, say: Say) -> None:
    """A name that useradd takes, and not root."""
    if not USER.fullmatch(user) or user == "root":
        say(
            path,
            user,
            "not a name for a system user. Use lower-case letters, digits, _ and -, at most 32, and not root.",
        )


def check_server_names(path: str, names: Sequence[Any], say: Say) -> None:
    """Names that a certificate and nginx can have, each once."""
    for number, name in enumerate(names):
        if not isinstance(name, str):
            continue
        if not is_name(name):
            say(
                f"{path}[{number}]",
                name,
                "neither a DNS name in lower case nor an IP address. Write it without https://, port and path.",
            )
        elif name in names[:number]:
            say(f"{path}[{number}]", name, f"{path}[{names.index(name)}] is the same. Remove one of the two.")


def check_directory(path: str, directory: str, say: Say) -> None:
    """An absolute path below the root; units and shells take it as one word."""
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", directory) or ".." in PurePosixPath(directory).parts:
        say(path, directory, "not an absolute path of letters, digits, . _ and -. For example /opt/llm.")


def address_of(text: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address of a text such as ``192.0.2.1`` or ``192.0.2.1/24``; None where no host can have it."""
    try:
        address = ipaddress.ip_interface(text).ip if isinstance(text, str) else None
    except ValueError:
        return None
    unusable = address is None or address.is_loopback or address.is_multicast or address.is_unspecified
    return None if unusable else address


def check_virtual_address(path: str, text: str, say: Say) -> None:
    """An address that a host can have."""
    if text and address_of(text) is None:
        say(path, text, "not an address that a host can have. Write one such as 192.0.2.10 or 192.0.2.10/24.")


def check_networks(path: str, networks: Sequence[Any], say: Say) -> None:
    """Addresses and networks; the network of all addresses would open everything."""
    for number, text in enumerate(networks):
        if text is UNUSABLE:
            continue
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            say(
                f"{path}[{number}]",
                text,
                f"not an address and no network ({error}). Write one such as 192.0.2.10 or 192.0.2.0/24.",
            )
        else:
            if network.prefixlen == 0:
                say(
                    f"{path}[{number}]",
                    text,
                    "this is everybody. Name your own networks, or set llm_firewall_enabled: false.",
                )


def check_port_list(path: str, ports: Sequence[Any], say: Say) -> None:
    """Ports, and ranges of ports from a lower to a higher one."""
    for number, port in enumerate(ports):
        ends = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(port))
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, 0)
        if isinstance(port, bool) or not 1 <= first <= last <= 65535:
            say(f"{path}[{number}]", port, 'neither a port nor a range. Write one such as 9100 or "9100-9199".')


def check_rollback_seconds(path: str, seconds: int, say: Say) -> None:
    """Time enough to connect anew, and an end to being locked out."""
    if not 10 <= seconds <= 3600:
        say(path, seconds, "out of range. Choose from 10 to 3600.")


def check_router_id(path: str, number: int, say: Say) -> None:
    """VRRP has a byte for it, and 0 is none."""
    if not 1 <= number <= 255:
        say(path, number, "out of range. Choose from 1 to 255.")


def check_usage_days(path: str, days: int, say: Say) -> None:
    """A month's book must be whole when its table is asked for."""
    if days < 31:
        say(path, days, "less than a month. Use 31 or more.")


RELATIONS: Mapping[str, Callable[[str, Any, Say], None]] = {
    "llm_virtual_address": check_virtual_address,
    "firewall_trusted_networks": check_networks,
    "firewall_open_tcp_ports": check_port_list,
    "firewall_open_udp_ports": check_port_list,
    "firewall_ssh_ports": check_port_list,
    "firewall_rollback_seconds": check_rollback_seconds,
    "keepalived_router_id": check_router_id,
    "ray_node_usage_days": check_usage_days,
    "llm_models": check_models,
    "llm_api_keys": check_api_keys,
    "llm_limits": check_limits,
    TOKEN_NAME: check_token,
    "llm_server_names": check_server_names,
    "llm_service_user": check_user,
    "llm_root_dir": check_directory,
    "llm_state_dir": check_directory,
    "llm_config_dir": check_directory,
}
