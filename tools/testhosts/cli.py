"""The command line: `python -m testhosts COMMAND`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from . import deps
from .api import BOOT_SECONDS, LAYER_DAYS, TestHosts, has_layer, list_networks, prune, purge, require_root
from .base import ensure_base
from .errors import TestHostsError
from .shell import require_programs
from .spec import DEFAULT_SUITE, Bind, Host, NetworkSpec, Publish
from .state import default_state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence


def _echo(text: str) -> None:
    print(text, flush=True)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="testhosts",
        description="Real systemd hosts on this machine (systemd-nspawn), for the demo and for tests.",
        epilog=f"Everything is kept in $TESTHOSTS_DIR, now {default_state_dir()}.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, network: bool = True, host: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        if network:
            added.add_argument("--name", required=True, help="the network's name")
        if host:
            added.add_argument("--host", required=True, help="the host's name")
        return added

    command("deps", "install the packages that this needs on the machine (apt-get)", network=False)
    command("base", "build the base tree of a suite, if it is missing", network=False).add_argument(
        "--suite", default=DEFAULT_SUITE
    )
    up = command("up", "bring a network of hosts up; hosts that run are left alone")
    up.add_argument("--subnet", required=True, help="for example 198.18.10.0/24; its first address is the gateway")
    up.add_argument("--host", action="append", default=[], metavar="HOST=ADDRESS", help="a host; give it once for each")
    up.add_argument("--suite", default=DEFAULT_SUITE, help="the Debian release of the hosts (default: %(default)s)")
    up.add_argument(
        "--layer", action="append", default=[], metavar="KEY", help="a committed layer, the first at the bottom"
    )
    up.add_argument(
        "--bind-ro",
        action="append",
        default=[],
        metavar="SRC:DST",
        help="show a path of the machine to every host, read-only",
    )
    up.add_argument(
        "--publish",
        action="append",
        default=[],
        metavar="127.0.0.1:PORT=HOST:PORT",
        help="forward a loopback port of the machine",
    )
    up.add_argument("--allow-any-subnet", action="store_true", help="accept a subnet outside 198.18.0.0/15")
    up.add_argument(
        "--boot-seconds",
        type=float,
        default=BOOT_SECONDS,
        help="how long a host may take to boot (default: %(default)g)",
    )
    down = command("down", "take a network down with its overlays; base trees and layers stay")
    down.add_argument(
        "--timeout-seconds", type=float, default=10, help="kill hosts that are not off by then (default: %(default)g)"
    )
    stop = command("stop", "power a host off; its overlay stays", host=True)
    stop.add_argument("--kill", action="store_true", help="cut its power instead")
    stop.add_argument(
        "--timeout-seconds", type=float, default=30, help="kill it if it is not off by then (default: %(default)g)"
    )
    command("start", "boot a host that is off, on its overlay", host=True)
    command("reboot", "reboot a host from inside and wait for it", host=True)
    commit = command("commit", "copy paths of a host into a layer", host=True)
    commit.add_argument("--layer", required=True, metavar="KEY")
    commit.add_argument("paths", nargs="+", metavar="PATH")
    command("has-layer", "exit with 0 if there is a layer of that key, else with 1", network=False).add_argument(
        "key", metavar="KEY"
    )
    prune_command = command("prune", "remove layers that nothing used for some days", network=False)
    prune_command.add_argument("--days", type=float, default=LAYER_DAYS, help="(default: %(default)g)")
    command("purge", "take every network down and remove the state directory", network=False)
    execute = command("exec", "run a command in a host as root, by ssh; a shell without one", host=True)
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    command("list", "list networks and hosts", network=False).add_argument("--json", action="store_true")
    command("partition", "make a host drop every packet but its loopback's", host=True)
    command("link-down", "pull a host's cable", host=True)
    command("heal", "end a partition, and plug the cable in", host=True)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status, 1 for an error that was explained on standard error."""
    arguments = parser().parse_args(argv)
    os.umask(0o022)
    try:
        return _run(arguments)
    except TestHostsError as error:
        print(f"testhosts: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testhosts: interrupted; the same command, or `down`, clears what was left", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    require_root()
    match arguments.command:
        case "deps":
            deps.install(_echo)
        case "base":
            require_programs()
            state = TestHosts("base").state
            state.make()
            _echo(f"base tree: {ensure_base(state, arguments.suite, _echo)}")
        case "has-layer":
            return 0 if has_layer(arguments.key) else 1
        case "prune":
            prune(days=arguments.days, echo=_echo)
        case "purge":
            purge(echo=_echo)
        case "list":
            _list(arguments.json)
        case _:
            return _run_on_network(TestHosts(arguments.name, echo=_echo), arguments)
    return 0


def _run_on_network(network: TestHosts, arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up":
            network.up(_spec(arguments), boot_seconds=arguments.boot_seconds)
        case "down":
            network.down(timeout_seconds=arguments.timeout_seconds)
        case "stop":
            network.stop(arguments.host, timeout_seconds=arguments.timeout_seconds, hard=arguments.kill)
        case "start":
            network.start(arguments.host)
        case "reboot":
            network.reboot(arguments.host)
        case "commit":
            network.commit(arguments.host, arguments.layer, arguments.paths)
        case "partition":
            network.partition(arguments.host)
        case "link-down":
            network.link_down(arguments.host)
        case "heal":
            network.heal(arguments.host)
        case "exec":
            return subprocess.call(
                network.ssh_argv(arguments.host, arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv)
            )
    return 0


def _spec(arguments: argparse.Namespace) -> NetworkSpec:
    return NetworkSpec(
        name=arguments.name,
        subnet=arguments.subnet,
        hosts=tuple(Host.parse(text) for text in arguments.host),
        suite=arguments.suite,
        layers=tuple(arguments.layer),
        binds=tuple(Bind.parse(text) for text in arguments.bind_ro),
        publishes=tuple(Publish.parse(text) for text in arguments.publish),
        allow_any_subnet=arguments.allow_any_subnet,
    )


def _list(as_json: bool) -> None:
    states = [state for name in list_networks() for state in TestHosts(name).hosts()]
    if as_json:
        _echo(json.dumps([asdict(state) for state in states], indent=1))
        return
    rows = [("NAME", "HOST", "ADDRESS", "STATE", "PID")]
    rows += [(state.network, state.host, state.address, state.state, str(state.pid or "-")) for state in states]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        _echo("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())
