"""Real systemd hosts on one machine, for the demo, Molecule and the chaos tests.

Each host is a systemd-nspawn container with an overlay on a shared base tree, a network namespace and a control group
of its own; it is reached by ssh, as a host of a cluster would be. Nothing but the standard library is needed.

    from testhosts import Host, NetworkSpec, TestHosts

    network = TestHosts("demo")
    network.up(NetworkSpec("demo", "198.18.10.0/24", (Host("node1", "198.18.10.11"),)))
    network.execute("node1", ["systemctl", "is-system-running"])
    network.down()

The same as commands: `python -m testhosts --help`.
"""

from .api import HostState, TestHosts, has_layer, list_networks, prune, purge
from .base import base_id
from .errors import BootError, BuildError, CommandError, MachineError, SpecError, TestHostsError
from .spec import Bind, Host, NetworkSpec, Publish

__all__ = [
    "Bind",
    "BootError",
    "BuildError",
    "CommandError",
    "Host",
    "HostState",
    "MachineError",
    "NetworkSpec",
    "Publish",
    "SpecError",
    "TestHosts",
    "TestHostsError",
    "base_id",
    "has_layer",
    "list_networks",
    "prune",
    "purge",
]
