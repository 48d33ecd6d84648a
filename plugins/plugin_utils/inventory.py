# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with an inventory, found without any host.

Names, types, choices, requirements and defaults come from the roles' argument specs (lookup ``role_specs``). Only
relations, which a spec can't say, are written here.
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from .certificates import certificate_errors, is_address, is_name
from .clients import DIGEST, LIMITS, digest, expiry
from .models import slug

Groups = Mapping[str, Sequence[str]]
Hostvars = Mapping[str, Mapping[str, Any]]
Roles = Mapping[str, Mapping[str, Mapping[str, Any]]]
Say = Callable[[str, Any, str], None]

PREFIX = "llm_"
VAULT_PREFIX = "vault_llm_"
OWNER = "preflight"
# Not one value for the whole cluster; and its default needs facts.
PER_HOST = frozenset({"llm_address"})

HEAD, WORKERS, CLUSTER, PROXIES = "ray_head", "ray_workers", "llm_cluster", "proxies"
GROUPS = (HEAD, WORKERS, CLUSTER, PROXIES, "monitoring")

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
MISTYPED_PREFIX = re.compile(r"(vault_)?[lm]{2,4}_")
TOKEN_NAME = "llm_ray_auth_token"
SOURCE, NAMES = "llm_tls_source", "llm_server_names"
# What the source `files` takes, in the role tls_certificate.
GIVEN: Mapping[str, str] = {
    "tls_certificate_chain": "the certificate in PEM, and after it the intermediates.",
    "tls_certificate_key": "its private key in PEM. Keep it in the vault, as vault_llm_tls_certificate_key.",
}
SECRETIVE = re.compile(r"token|secret|password|passphrase|api_?key|_key\b|\.env\b", re.IGNORECASE)
MAKE_TOKEN = "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))', and keep it in the vault."

# Stands for a value about which an error is noted already, so that nothing else is said of it.
UNUSABLE = object()

TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a string (put it in quotes)"),
    "path": ((str,), "a path (put it in quotes)"),
    "int": ((int,), "a whole number, without quotes"),
    "float": ((int, float), "a number, without quotes"),
    "bool": ((bool,), "true or false, without quotes"),
    "list": ((list, tuple), "a list"),
    "dict": ((Mapping,), "a dictionary"),
}


class Findings:
    """Errors in the order they were found; the same error of several hosts is one error that names them."""

    def __init__(self) -> None:
        self._hosts: dict[str, list[str]] = {}

    def add(self, text: str, hosts: Iterable[str] = ()) -> None:
        """Note an error, and the hosts it was found on."""
        known = self._hosts.setdefault(text, [])
        known.extend(host for host in hosts if host not in known)

    def texts(self, everywhere: Iterable[str]) -> list[str]:
        """Return the errors; one that is not everywhere says where it is."""
        every = set(everywhere)
        return [
            f"{text} [{'host' if len(hosts) == 1 else 'hosts'} {', '.join(hosts)}]"
            if hosts and set(hosts) != every
            else text
            for text, hosts in self._hosts.items()
        ]


def inventory_errors(
    hostvars: Hostvars,
    groups: Groups,
    roles: Roles,
    ports: Mapping[str, Sequence[str]] | None = None,
    port_ranges: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return every error of an inventory, each with the variable, the value and the fix.

    Args:
        hostvars: host name to its variables. A variable that can't be rendered raises when it's read.
        groups: group name to its hosts.
        roles: role name to ``options`` and ``defaults``, as the lookup ``role_specs`` returns them.
        ports: name of a port's variable to the hosts that listen on it.
        port_ranges: ``first`` and ``last``, names of variables, and ``hosts``.
    """
    findings = Findings()
    spec = {name: option for name, option in roles[OWNER]["options"].items() if name.startswith(PREFIX)}
    hosts = [str(host) for host in groups.get("all", ())]
    members = sorted({host for name in GROUPS for host in groups.get(name, ())}, key=hosts.index)

    check_groups(groups, hosts, findings)
    check_names(hostvars, hosts, spec, roles, findings)
    values = {host: read(hostvars[host], host, spec, findings) for host in hosts}
    check_required(values, members or hosts, spec, findings)
    check_one_value(values, members, spec, roles[OWNER]["defaults"], findings)
    check_values(values, spec, findings)
    check_clients_models(values, findings)
    check_certificate(hostvars, groups, values, roles[OWNER]["defaults"], findings)
    check_proxies_address(values, list(groups.get(PROXIES, ())), findings)
    check_other_roles(hostvars, hosts, roles, findings)
    check_ports(hostvars, roles, ports or {}, port_ranges, findings)
    return findings.texts(hosts)


def check_groups(groups: Groups, hosts: Sequence[str], findings: Findings) -> None:
    """Find groups that are missing, misspelt, or don't fit together."""
    if not hosts:
        findings.add("The inventory has no hosts. Give one with -i, for example -i inventories/example.")
        return
    for name in groups:
        if name not in (*GROUPS, "all", "ungrouped") and (near := nearest(str(name), GROUPS, 0.8)):
            findings.add(f"Group {name}: there is no such group. Did you mean {near}?")
    heads, workers = list(groups.get(HEAD, ())), list(groups.get(WORKERS, ()))
    cluster, proxies = list(groups.get(CLUSTER, ())), list(groups.get(PROXIES, ()))
    if len(heads) != 1:
        has = f"has {len(heads)} hosts ({', '.join(heads)})" if heads else "has no host"
        findings.add(
            f"Group {HEAD} {has}: a cluster has exactly one head. Leave one host in {HEAD}; put others in {WORKERS}."
        )
    if not proxies:
        findings.add(f"Group {PROXIES} has no host: nothing would answer users. Put a host in it; the head may be one.")
    for host in heads:
        if host in workers:
            findings.add(
                f"Host {host} is in {HEAD} and in {WORKERS}. Take it out of {WORKERS};"
                " a head without workers runs the models."
            )
    for name, members in ((HEAD, heads), (WORKERS, workers)):
        for host in members:
            if host not in cluster:
                findings.add(f"Host {host} is in {name} but not in {CLUSTER}. Make {name} a child group of {CLUSTER}.")
    for host in cluster:
        if host not in heads and host not in workers:
            findings.add(f"Host {host} is in {CLUSTER} but neither in {HEAD} nor in {WORKERS}. Put it in one of them.")


def check_names(
    hostvars: Hostvars, hosts: Sequence[str], spec: Mapping[str, Any], roles: Roles, findings: Findings
) -> None:
    """Find variables that no role knows.

    Under ``llm_`` every unknown name is an error. A role's prefix may be a common word, so there only a near miss is.
    """
    twins = [f"vault_{name}" for name in spec]
    twins += [
        f"{VAULT_PREFIX}{name}"
        for role in roles.values()
        for name, option in role["options"].items()
        if option.get("no_log") and not name.startswith(PREFIX)
    ]
    for host in hosts:
        for name in map(str, hostvars[host]):
            if name in spec or name in twins:
                continue
            if name.startswith(VAULT_PREFIX):
                findings.add(f"{name}: no variable takes this secret. {did_you_mean(name, twins)}", [host])
            elif name.startswith(PREFIX):
                findings.add(
                    f"{name}{shown_variable(hostvars[host], name)}: there is no such variable."
                    f" {did_you_mean(name, spec)}",
                    [host],
                )
            elif MISTYPED_PREFIX.match(name) and (near := nearest(name, (*spec, *twins), 0.9)):
                findings.add(f"{name}: there is no such variable. Did you mean {near}?", [host])
            elif (
                (role := role_of(name, roles))
                and name not in roles[role]["options"]
                and (near := nearest(name, roles[role]["options"], 0.85))
            ):
                findings.add(f"{name}: role {role} has no such variable. Did you mean {near}?", [host])


def read(variables: Mapping[str, Any], host: str, spec: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the cluster variables of a host, rendered; ``UNUSABLE`` where that fails."""
    values: dict[str, Any] = {}
    for name in spec:
        if name not in variables:
            continue
        try:
            values[name] = rendered(variables, name)
        except Exception as error:  # whatever a template, a lookup or a vault raises
            if name in PER_HOST:  # it may need facts; the checks of the hosts see it
                continue
            fix = f"Set what it refers to. {MAKE_TOKEN if name == TOKEN_NAME else ''}".rstrip()
            findings.add(f"{name} can't be rendered: {str(error).rstrip('.')}. {fix}", [host])
            values[name] = UNUSABLE
        else:
            if values[name] is None:
                findings.add(f"{name} has no value. Give it one, or remove the line.", [host])
                values[name] = UNUSABLE
    return values


def check_required(
    values: Mapping[str, Mapping[str, Any]], members: Sequence[str], spec: Mapping[str, Any], findings: Findings
) -> None:
    """Find hosts for which a required variable is not set."""
    for name, option in spec.items():
        missing = [host for host in members if option.get("required") and name not in values[host]]
        if missing:
            fix = MAKE_TOKEN if name == TOKEN_NAME else "Set it in the inventory's group_vars/all."
            findings.add(f"{name} is not set, and it is required. {fix}", missing)


def check_one_value(
    values: Mapping[str, Mapping[str, Any]],
    members: Sequence[str],
    spec: Mapping[str, Any],
    defaults: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Find cluster variables that are not the same on all hosts of the cluster."""
    for name, option in spec.items():
        if name in PER_HOST:
            continue
        hosts_by_value: dict[str, list[str]] = defaultdict(list)
        for host in members:
            value = values[host].get(name, defaults.get(name, UNUSABLE))
            if value is not UNUSABLE:
                hosts_by_value[as_text(value)].append(host)
        if len(hosts_by_value) > 1:
            found = "; ".join(
                f"{'one' if option.get('no_log') else shown(name, json.loads(value)).removeprefix(' = ').strip()}"
                f" on {', '.join(hosts)}"
                for value, hosts in hosts_by_value.items()
            )
            findings.add(f"{name} differs between hosts: {found}. Set it once, in the inventory's group_vars/all.")


def check_values(values: Mapping[str, Mapping[str, Any]], spec: Mapping[str, Any], findings: Findings) -> None:
    """Check each distinct value once, against the spec and then its relations."""
    for name, option in spec.items():
        distinct: dict[str, tuple[Any, list[str]]] = {}
        for host, variables in values.items():
            if variables.get(name, UNUSABLE) is not UNUSABLE:
                distinct.setdefault(as_text(variables[name]), (variables[name], []))[1].append(host)
        for value, hosts in distinct.values():
            say = reporter(findings, hosts, secret=bool(option.get("no_log")))
            usable = checked(name, unquoted_number(value, option), option, say)
            if usable is UNUSABLE:
                continue
            if name.endswith("_port"):
                check_port_number(name, usable, say)
            if name in RELATIONS:
                RELATIONS[name](name, usable, say)


def check_certificate(
    hostvars: Hostvars,
    groups: Groups,
    values: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Find a source of certificates that lacks names, or the certificate itself."""
    for host in groups.get(PROXIES, ()):
        source = values[host].get(SOURCE, defaults.get(SOURCE))
        names = values[host].get(NAMES, defaults.get(NAMES))
        if not isinstance(source, str) or not isinstance(names, (list, tuple)):  # noted by check_values()
            continue
        names = [name for name in names if isinstance(name, str)]
        say = reporter(findings, [])
        if source in ("private_ca", "acme") and not names:
            say(
                NAMES,
                names,
                f'no names, and {SOURCE} = "{source}" needs them. List what users write, for example:'
                f" {NAMES}: [llm.example.org]",
            )
        if source == "acme":
            for number, name in enumerate(names):
                if is_address(name) or name.startswith("*"):
                    say(
                        f"{NAMES}[{number}]",
                        name,
                        "an ACME server asks on port 80 of a whole DNS name, so it gives no certificate for this."
                        f" Remove it, or choose another {SOURCE}.",
                    )
        if source == "files":
            check_files(hostvars[host], host, names, findings)


def check_files(variables: Mapping[str, Any], host: str, names: Sequence[str], findings: Findings) -> None:
    """Find a given certificate that is missing, or doesn't fit."""
    found = {}
    for name, what in GIVEN.items():
        try:
            found[name] = str(rendered(variables, name)) if name in variables else ""
        except Exception as error:  # whatever a template, a lookup or a vault raises
            findings.add(f"{name} can't be rendered: {str(error).rstrip('.')}. Set what it refers to.", [host])
            continue
        if not found[name]:
            findings.add(f'{name} is not set, and {SOURCE} = "files" needs it: {what}', [host])
    if len(found) == len(GIVEN) and all(found.values()):
        for text in certificate_errors(*found.values(), names):
            findings.add(text, [host])


def check_other_roles(hostvars: Hostvars, hosts: Sequence[str], roles: Roles, findings: Findings) -> None:
    """Check the variables of the other roles against their specs, as far as they can be rendered without facts."""
    for host in hosts:
        for name in map(str, hostvars[host]):
            role = role_of(name, roles)
            option = roles[role]["options"].get(name) if role else None
            if option is None or option.get("type", "str") in ("str", "path"):  # Ansible makes a string of anything
                continue
            try:
                value = rendered(hostvars[host], name)
            except Exception:  # may need facts
                continue
            say = reporter(findings, [host], secret=bool(option.get("no_log")))
            usable = checked(name, unquoted_number(value, option), option, say)
            if usable is not UNUSABLE and name in RELATIONS:
                RELATIONS[name](name, usable, say)


def check_proxies_address(values: Mapping[str, Mapping[str, Any]], proxies: Sequence[str], findings: Findings) -> None:
    """The address that proxies share needs two of them, and is no host's own."""
    found = {values[host].get("llm_virtual_address", "") for host in proxies}
    text = found.pop() if len(found) == 1 else ""
    address = address_of(text)
    if address is None:
        return  # none, or noted already
    say = reporter(findings, ())
    if len(proxies) < 2:
        say(
            "llm_virtual_address",
            text,
            f"group {PROXIES} has one host ({proxies[0]}), and an address can only move between two or more."
            f" Put another host in {PROXIES}, or remove the variable.",
        )
    for host, variables in values.items():
        if address == address_of(variables.get("llm_address")):
            say(
                "llm_virtual_address",
                text,
                f"this is the llm_address of host {host}. Choose a free address in the network of the proxies.",
            )


def check_ports(
    hostvars: Hostvars,
    roles: Roles,
    ports: Mapping[str, Sequence[str]],
    port_ranges: Sequence[Mapping[str, Any]],
    findings: Findings,
) -> None:
    """Find ports that two variables claim on one host."""
    claims: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for host, numbers in ports_by_host(hostvars, roles, ports).items():
        claims[host] += [(port, port, f"{name} = {port}") for name, port in numbers.items()]
        for name, port in numbers.items():
            if not name.startswith(PREFIX):
                check_port_number(name, port, reporter(findings, [host]))
    for port_range in port_ranges:
        for host in port_range["hosts"]:
            first = port_of(hostvars[host], roles, port_range["first"])
            last = port_of(hostvars[host], roles, port_range["last"])
            if first is None or last is None:
                continue
            name = f"{port_range['first']} = {first} to {port_range['last']} = {last}"
            if first > last:
                findings.add(f"{name}: the first is greater than the last. Exchange the two.", [host])
            claims[host].append((first, last, name))
    for host, claimed in claims.items():
        for one, other in itertools.combinations(claimed, 2):
            if one[0] <= other[1] and other[0] <= one[1]:
                findings.add(f"{one[2]} and {other[2]}: the same port on one host. Change one of the two.", [host])


def ports_by_host(hostvars: Hostvars, roles: Roles, ports: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return for each host the port numbers that the platform listens on, by the name of their variable."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for name, hosts in ports.items():
        for host in hosts:
            port = port_of(hostvars[host], roles, name)
            if port is not None:
                found[host][name] = port
    return found


def port_of(variables: Mapping[str, Any], roles: Roles, name: str) -> int | None:
    """Return a port: the inventory's, else the default of the role that owns it; None where it isn't a number."""
    owner = role_of(name, roles) or OWNER
    try:
        value = rendered(variables, name) if name in variables else roles[owner]["defaults"].get(name)
    except Exception:  # noted by read()
        return None
    value = unquoted_number(value, {"type": "int"})
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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


def check_clients_models(values: Mapping[str, Mapping[str, Any]], findings: Findings) -> None:
    """Find models that a client may use and that there are not."""
    for host, variables in values.items():
        models, clients = variables.get("llm_models", UNUSABLE), variables.get("llm_api_keys", UNUSABLE)
        if not isinstance(models, (list, tuple)) or not isinstance(clients, Mapping):
            continue
        names = [
            name
            for model in models
            if isinstance(model, Mapping)
            for name in (model.get("id"), *(model.get("aliases") or ()))
            if isinstance(name, str)
        ]
        for client, given in clients.items():
            for model in (given.get("models") or ()) if isinstance(given, Mapping) else ():
                if isinstance(model, str) and model not in names:
                    findings.add(
                        f"llm_api_keys.{client}.models: llm_models has no {json.dumps(model)}."
                        f" {did_you_mean(model, names)}",
                        [host],
                    )


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


RELATIONS: Mapping[str, Callable[[str, Any, Say], None]] = {
    "llm_virtual_address": check_virtual_address,
    "firewall_trusted_networks": check_networks,
    "firewall_open_tcp_ports": check_port_list,
    "firewall_open_udp_ports": check_port_list,
    "firewall_ssh_ports": check_port_list,
    "firewall_rollback_seconds": check_rollback_seconds,
    "keepalived_router_id": check_router_id,
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


def checked(path: str, value: Any, option: Mapping[str, Any], say: Say) -> Any:
    """Check a value against its option of an argument spec.

    Returns:
        The value; of a dictionary only the keys that can be used; ``UNUSABLE`` where the value itself can't.
    """
    if value is None:
        say(path, value, "has no value. Give it one, or remove the line.")
        return UNUSABLE
    types, words = TYPES.get(str(option.get("type", "str")), ((object,), ""))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types):
        say(path, value, f"must be {words}.")
        return UNUSABLE
    choices = option.get("choices")
    if choices and value not in choices:
        say(path, value, f"there is no such choice. {did_you_mean(str(value), [str(choice) for choice in choices])}")
        return UNUSABLE
    if isinstance(value, (list, tuple)) and "elements" in option:
        element = {"type": option["elements"], "options": option.get("options")}
        return [checked(f"{path}[{number}]", item, element, say) for number, item in enumerate(value)]
    if isinstance(value, Mapping) and option.get("options"):
        return checked_keys(path, value, option["options"], say)
    return value


def checked_keys(path: str, value: Mapping[str, Any], options: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Check the keys of a dictionary against the options of a spec, and return those that can be used."""
    for key in value:
        if key not in options:
            say(f"{path}.{key}", value[key], f"there is no such key. {did_you_mean(str(key), options)}")
    for key, option in options.items():
        if option.get("required") and key not in value:
            say(f"{path}.{key}", None, f"missing, and it is required. {first_sentence(option)}")
    return {key: checked(f"{path}.{key}", value[key], option, say) for key, option in options.items() if key in value}


def reporter(findings: Findings, hosts: Sequence[str], *, secret: bool = False) -> Say:
    """Return a function that notes ``path = value: what is wrong. What to do.``; a secret's value is left out."""

    def say(path: str, value: Any, text: str) -> None:
        findings.add(f"{path}{' (secret)' if secret else shown(path, value)}: {text}", hosts)

    return say


def shown(path: str, value: Any) -> str:
    """Return `` = value``, or a word for what may hold a secret: by its name, in an environment, in a dictionary."""
    if value is None:
        return ""
    if SECRETIVE.search(path):
        return " (not shown)"
    if isinstance(value, Mapping) and value:
        return " (a dictionary)"
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        return " (a list)"
    text = as_text(value)
    return f" = {text if len(text) <= 100 else text[:97] + '...'}"


def shown_variable(variables: Mapping[str, Any], name: str) -> str:
    """Return what :func:`shown` does, or nothing where the variable can't be rendered: its name is what is wrong."""
    try:
        return shown(name, rendered(variables, name))
    except Exception:
        return ""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return a hint: the nearest right name, or all of them."""
    known = list(candidates)
    near = nearest(name, known)
    return f"Did you mean {near}?" if near else f"There are: {', '.join(known)}."


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the candidate that is most like a name, if one is."""
    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return found[0] if found else None


def role_of(name: str, roles: Roles) -> str | None:
    """Return the role (not preflight) whose prefix a variable has."""
    return max((role for role in roles if role != OWNER and name.startswith(f"{role}_")), key=len, default=None)


def unquoted_number(value: Any, option: Mapping[str, Any]) -> Any:
    """Return a whole number that came as a string: ``-e name=1`` and the environment give nothing else."""
    if option.get("type") == "int" and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return value


def first_sentence(option: Mapping[str, Any]) -> str:
    """Return the first sentence of an option's description."""
    description = option.get("description", "")
    text = description if isinstance(description, str) else str(description[0])
    return re.sub(r"\b[A-Z]\(([^)]*)\)", r"\1", re.split(r"(?<=\.)\s", text)[0])


def rendered(variables: Mapping[str, Any], name: str) -> Any:
    """Return a variable. What is undefined in it raises here: Ansible may hand out a marker that raises in use."""
    value = variables[name]
    as_text(value)
    return value


def as_text(value: Any) -> str:
    """Return a value as JSON, so that control characters show."""
    return json.dumps(value, default=str, sort_keys=True)
