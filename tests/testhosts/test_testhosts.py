"""The test hosts' tooling: its names, parsing and rendering, and one run of real hosts (marker `hosts`, root only)."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from testhosts import (
    Bind,
    Host,
    MachineError,
    NetworkSpec,
    Publish,
    SpecError,
    TestHosts,
    TestHostsError,
    has_layer,
    layers,
    list_networks,
    prune,
    purge,
    settings,
)
from testhosts import base as base_module
from testhosts.cgroup import cgroup2_mount
from testhosts.cli import main, parser
from testhosts.network import masquerade_rules, partition_rules
from testhosts.process import ProcessRecord
from testhosts.spec import Names, check_layer_key
from testhosts.state import StateDir

SUBNET = os.environ.get("TESTHOSTS_TEST_SUBNET", "198.18.250.0/24")
PREFIX = SUBNET.rpartition(".")[0]


# -- what is asked for ---------------------------------------------------------------------------------------------


def spec(**changes: object) -> NetworkSpec:
    arguments: dict[str, object] = {"name": "demo", "subnet": "198.18.10.0/24", "hosts": (Host("a", "198.18.10.11"),)}
    return NetworkSpec(**{**arguments, **changes})  # type: ignore[arg-type]


def test_the_gateway_is_the_first_address() -> None:
    assert spec().gateway == "198.18.10.1"


def test_a_spec_survives_the_state_file() -> None:
    full = spec(layers=("runtime-1",), binds=(Bind("/usr", "/mnt"),), publishes=(Publish(8443, "a", 443),))
    assert NetworkSpec.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"subnet": "10.0.0.0/24", "hosts": (Host("a", "10.0.0.2"),)}, "--allow-any-subnet"),
        ({"subnet": "198.18.10.7/24"}, "not an IPv4 network"),
        ({"subnet": "198.18.0.0/15"}, "prefix between"),
        ({"hosts": ()}, "at least one host"),
        ({"hosts": (Host("a", "198.18.10.1"),)}, "gateway"),
        ({"hosts": (Host("a", "198.18.11.1"),)}, "not a free address"),
        ({"hosts": (Host("a", "198.18.10.2"), Host("a", "198.18.10.3"))}, "host name given more than once: a"),
        ({"hosts": (Host("a", "198.18.10.2"), Host("b", "198.18.10.2"))}, "host address given more than once"),
        ({"publishes": (Publish(80, "b", 80),)}, "no host 'b'"),
        ({"name": "Demo"}, "network name 'Demo'"),
        ({"suite": "../x"}, "suite"),
        ({"layers": ("../x",)}, "layer key"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        spec(**changes)


def test_any_subnet_when_asked_for() -> None:
    assert spec(subnet="10.9.8.0/24", hosts=(Host("a", "10.9.8.2"),), allow_any_subnet=True).gateway == "10.9.8.1"


@pytest.mark.parametrize("text", ["a", "a=", "a=198.18.10", "A=198.18.10.2", "-a=198.18.10.2", "a=198.18.10.2/24"])
def test_a_host_that_is_not_name_and_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        Host.parse(text)


def test_publish_is_parsed() -> None:
    assert Publish.parse("127.0.0.1:8443=node-1:443") == Publish(8443, "node-1", 443)


@pytest.mark.parametrize("text", ["8443=a:443", "0.0.0.0:8443=a:443", "127.0.0.1:0=a:443", "127.0.0.1:1=a:65536"])
def test_publish_elsewhere_than_on_the_loopback_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="loopback"):
        Publish.parse(text)


def test_a_bind_needs_an_existing_source() -> None:
    assert Bind.parse("/usr:/mnt/usr") == Bind("/usr", "/mnt/usr")
    for text in ("usr:/mnt", "/usr", "/usr:mnt", "/does-not-exist:/mnt"):
        with pytest.raises(SpecError):
            Bind.parse(text)


def test_layer_keys_are_plain_file_names() -> None:
    assert check_layer_key("ray-2.60.0_ab12") == "ray-2.60.0_ab12"
    for key in ("", ".hidden", "a/b", "a b", "x" * 101):
        with pytest.raises(SpecError):
            check_layer_key(key)


def test_names_fit_the_kernel_and_keep_networks_apart() -> None:
    long = "a-network-with-a-very-long-name"
    wide = spec(name=long, subnet="198.18.0.0/16", hosts=(Host("a", "198.18.255.254"),))
    names = [Names(long, "/s"), Names(f"{long}-2", "/s"), Names(long, "/other")]
    assert len({name.bridge for name in names}) == 3
    assert all(len(text) <= 15 for name in names for text in (name.bridge, name.veth(wide, wide.hosts[0])))
    assert names[0] == Names(long, "/s")


# -- what the machine has --------------------------------------------------------------------------------------------

DEB822 = """Types: deb
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

# a vendor's archive that uses Debian's suite name
Types: deb
URIs: https://vendor.example/debian
Suites: bookworm
Components: stable
Signed-By: /etc/apt/keyrings/vendor.asc

Enabled: no
Types: deb
URIs: https://off.example/debian
Suites: bookworm
Components: main
"""


def test_the_machines_own_debian_archives_are_used() -> None:
    sources = settings.debian_sources("bookworm", [("debian.sources", DEB822)], "bookworm")
    assert [(source.uris, source.suites) for source in sources] == [
        (("https://mirror.example/debian",), ("bookworm", "bookworm-updates"))
    ]
    assert "Suites: bookworm bookworm-updates\n" in sources[0].render()


def test_the_machines_mirror_serves_other_releases_too() -> None:
    sources = settings.debian_sources("trixie", [("debian.sources", DEB822)], "bookworm")
    assert sources[0].suites == ("trixie", "trixie-updates")


def test_one_line_sources_are_read() -> None:
    text = "deb-src http://m.example/debian bookworm main\ndeb [arch=amd64] http://m.example/debian bookworm main #\n"
    assert settings.debian_sources("bookworm", [("sources.list", text)], None)[0].uris == ("http://m.example/debian",)


def test_a_machine_that_is_no_debian_uses_the_public_archive() -> None:
    ubuntu = "Types: deb\nURIs: http://u.example/ubuntu\nSuites: noble\nComponents: main\nSigned-By: /u.gpg\n"
    assert settings.debian_sources("bookworm", [("ubuntu.sources", ubuntu)], None) == []


def test_pip_conf_keeps_addresses_and_drops_local_places() -> None:
    text = settings.pip_conf(
        [
            "[global]\nindex-url = https://one.example/simple\ncert = /etc/mine.pem\n",
            "[global]\nextra-index-url = file:///opt/x https://two.example/simple\nfind-links = /opt/wheels\n",
            "not an ini file",
        ],
        {"PIP_INDEX_URL": "https://env.example/simple", "PIP_NO_INDEX": "1"},
    )
    assert text.splitlines() == [
        "[global]",
        f"cert = {settings.CA_BUNDLE}",
        "index-url = https://env.example/simple",
        "extra-index-url = https://two.example/simple",
    ]


def test_resolv_conf_looks_behind_a_local_resolver() -> None:
    stub = "nameserver 127.0.0.53\noptions edns0\n"
    assert settings.resolv_conf([stub, "search lan\nnameserver 192.0.2.53\n"]) == "search lan\nnameserver 192.0.2.53\n"
    assert settings.resolv_conf([stub, "nameserver ::1\n"]) is None


def test_only_certificates_that_the_base_lacks_are_added() -> None:
    def pem(body: bytes) -> str:
        return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(body).decode()}\n-----END CERTIFICATE-----"

    assert settings.extra_certificates(f"{pem(b'one')}\n{pem(b'two')}\n", pem(b"one")) == [pem(b"two")]


def test_cgroup2_is_found_in_both_hierarchies() -> None:
    hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    assert cgroup2_mount("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n") == Path("/sys/fs/cgroup")
    assert cgroup2_mount(hybrid) == Path("/sys/fs/cgroup/unified")
    with pytest.raises(MachineError, match="cgroup2 is not mounted"):
        cgroup2_mount("proc /proc proc rw 0 0\n")


# -- what is rendered ------------------------------------------------------------------------------------------------


def test_masquerading_leaves_the_subnets_own_traffic_alone() -> None:
    assert "ip saddr 198.18.10.0/24 ip daddr != 198.18.10.0/24 masquerade" in masquerade_rules("t", "198.18.10.0/24")


def test_a_partition_keeps_the_loopback() -> None:
    rules = partition_rules()
    assert rules.count("policy drop") == 3
    assert 'input iif "lo" accept' in rules
    assert 'output oif "lo" accept' in rules


def test_the_base_trees_name_follows_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base_module.base_id("bookworm")
    monkeypatch.setattr(base_module, "_RECIPE_VERSION", 999)
    assert before != base_module.base_id("bookworm")
    assert before.startswith("bookworm-")


def test_a_committed_path_goes_where_the_hosts_links_lead(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").touch()
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "opt").symlink_to("/usr/../usr")
    (tmp_path / "loop").symlink_to("loop")
    assert layers.resolve(tmp_path, "/bin/tool") == "usr/bin/tool"
    assert layers.resolve(tmp_path, "/opt/bin/tool") == "usr/bin/tool"
    assert layers.resolve(tmp_path, "/bin") == "bin"
    for path in ("bin/tool", "/", "/..", "/bin/other", "/loop/x"):
        with pytest.raises(SpecError):
            layers.resolve(tmp_path, path)


def test_a_recorded_process_is_not_taken_for_a_later_one() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        record = ProcessRecord.of(process.pid)
        assert record is not None
        later = ProcessRecord(record.pid, record.start_ticks + 1, record.boot_id)
        assert not later.signal(signal.SIGKILL)
        assert record.alive()
        assert record.signal(signal.SIGKILL)
        assert record.wait_gone(5)
    assert ProcessRecord.of(process.pid) is None


def test_a_state_directory_that_overlays_cannot_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="TESTHOSTS_DIR"):
        StateDir(tmp_path / "a:b").make()


# -- the command line ------------------------------------------------------------------------------------------------


def test_errors_are_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["list"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("testhosts: ")
    assert "sudo" in error


def test_up_is_parsed() -> None:
    arguments = parser().parse_args(
        ["up", "--name", "n", "--subnet", "198.18.1.0/24", "--host", "a=198.18.1.2", "--layer", "k"]
    )
    assert (arguments.name, arguments.host, arguments.layer) == ("n", ["a=198.18.1.2"], ["k"])


def test_purge_keeps_off_directories_that_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "precious").touch()
    with pytest.raises(MachineError, match="precious"):
        purge(state_dir=tmp_path)
    assert (tmp_path / "precious").exists()


# -- real hosts ------------------------------------------------------------------------------------------------------


def machine_leftovers(network: TestHosts) -> list[str]:
    """What a network still has on the machine, by every list that the kernel keeps."""
    names = network.names
    text = Path("/proc/self/mounts").read_text() + subprocess.run(
        "ip -o link; ip netns; nft list tables;"
        "find /sys/fs/cgroup -maxdepth 3 -type d -name 'testhosts-*'; ls /run/systemd/nspawn/propagate",
        shell=True, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text += (process / "cmdline").read_text().replace("\0", " ") + "\n"
        except OSError:
            continue
    wanted = (names.tag, str(network.state.network(network.name)))
    return [row for row in text.splitlines() if any(word in row for word in wanted)]


def wait_for(condition: object, seconds: float = 30) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


SERVER = r"""
import socket, time
listener = socket.create_server(("0.0.0.0", 9000))
while True:
    connection, _ = listener.accept()
    for number in range(4):
        connection.sendall(b"part %d\n" % number)
        time.sleep(0.5)
    connection.close()
"""


@pytest.mark.hosts
@pytest.mark.skipif(os.geteuid() != 0, reason="test hosts need root")
def test_two_real_hosts_from_up_to_down(tmp_path: Path) -> None:
    messages: list[str] = []
    network = TestHosts("selftest", echo=messages.append)
    key = f"selftest-{os.getpid()}"
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "word").write_text("hello\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    two = NetworkSpec(
        "selftest",
        SUBNET,
        (Host("one", f"{PREFIX}.11"), Host("two", f"{PREFIX}.12")),
        binds=(Bind(str(shared), "/mnt/shared"),),
        publishes=(Publish(port, "one", 9000),),
    )
    network.down()
    try:
        assert network.up(two)
        assert not network.up(two)
        assert messages[-1] == "network selftest: unchanged"
        assert [host.state for host in network.hosts()] == ["running", "running"]
        assert "selftest" in list_networks()

        # Two hosts of their own, that see each other.
        network.execute("one", ["ping", "-c1", "-W2", f"{PREFIX}.12"])
        network.execute("two", ["ping", "-c1", "-W2", f"{PREFIX}.11"])
        ids = {network.execute(host, ["cat", "/etc/machine-id"]).stdout for host in ("one", "two")}
        assert len(ids) == 2
        assert network.execute("one", ["hostname"]).stdout == "one\n"
        assert network.execute("one", ["ls", "/sys/class/net"]).stdout == "eth0\nlo\n"
        assert network.execute("one", ["cat", "/mnt/shared/word"]).stdout == "hello\n"
        assert network.execute("one", ["touch", "/mnt/shared/x"], check=False).returncode != 0

        # What differs is refused, what is missing in a host is told.
        with pytest.raises(SpecError, match="down"):
            network.up(NetworkSpec("selftest", SUBNET, (Host("one", f"{PREFIX}.13"), two.hosts[1])))
        with pytest.raises(TestHostsError, match="has no host 'three'"):
            network.execute("three", ["true"])

        # A published port streams: the first part comes long before the last.
        network.execute("one", ["python3", "-c", f"open('/root/server.py', 'w').write({SERVER!r})"])
        network.execute("one", ["systemd-run", "--unit=server", "python3", "/root/server.py"])
        wait_for(lambda: network.execute("one", ["ss", "-Hltn", "sport", "=", "9000"]).stdout)
        arrivals = []
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            while data := connection.recv(4096):
                arrivals.append((time.monotonic() - started, data))
        assert b"".join(data for _, data in arrivals) == b"part 0\npart 1\npart 2\npart 3\n"
        assert arrivals[0][0] < 0.5
        assert len(arrivals) == 4

        # A partition cuts off, and ends.
        network.partition("two")
        assert network.execute("one", ["ping", "-c1", "-W1", f"{PREFIX}.12"], check=False).returncode != 0
        network.heal("two")
        network.execute("one", ["ping", "-c1", "-W2", f"{PREFIX}.12"])
        network.link_down("two")
        assert network.execute("one", ["ping", "-c1", "-W1", f"{PREFIX}.12"], check=False).returncode != 0
        network.heal("two")
        network.execute("one", ["ping", "-c1", "-W2", f"{PREFIX}.12"])

        # A reboot from inside comes back by itself: same address, same disk, another boot; kernel state is gone.
        boot_id = ["cat", "/proc/sys/kernel/random/boot_id"]
        first_boot = network.execute("two", boot_id).stdout
        network.execute(
            "two", ["sh", "-c", "echo kept > /root/note; ip addr add 198.18.255.9/32 dev lo; nft add table ip mine"]
        )
        network.execute(
            "two", ["sh", "-c", "ip addr add 198.18.255.10/32 dev eth0; systemctl --no-block reboot"], check=False
        )
        wait_for(lambda: network.execute("two", boot_id, check=False).stdout not in ("", first_boot), 60)
        network.start("two")
        assert network.execute("two", ["cat", "/root/note"]).stdout == "kept\n"
        assert network.execute("two", ["nft", "list", "tables"]).stdout == ""
        assert "198.18.255.10" not in network.execute("two", ["ip", "addr"]).stdout
        network.reboot("two")

        # A committed path is there in a host that has the layer; owner and mode are kept.
        network.execute(
            "one",
            [
                "sh",
                "-c",
                "mkdir -p /opt/tool; echo v1 > /opt/tool/x; chown 1234:5678 /opt/tool/x; chmod 640 /opt/tool/x",
            ],
        )
        assert not has_layer(key)
        assert network.commit("one", key, ["/opt/tool"])
        assert has_layer(key)
        assert not network.commit("one", key, ["/opt/tool"])

        # A host off and on again has its disk; so has one whose nspawn was killed, after `up`.
        network.stop("two")
        assert network.hosts()[1].state == "off"
        assert network.commit("two", f"{key}-off", ["/root/note"])
        network.start("two")
        assert network.execute("two", ["cat", "/root/note"]).stdout == "kept\n"
        nspawn = subprocess.run(
            ["pgrep", "-f", f"systemd-nspawn.*--machine={network.names.machine('two')}"],
            capture_output=True,
            text=True,
            check=True,
        )
        for pid in nspawn.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda: network.hosts()[1].state == "off")
        assert network.up(two)
        assert network.execute("two", ["cat", "/root/note"]).stdout == "kept\n"
        assert [host.state for host in network.hosts()] == ["running", "running"]
    finally:
        network.down()
    assert machine_leftovers(network) == []
    assert not network.down()

    # A run that was cut off before any host was up is cleared by the next one. Layers are used, and forgotten in time.
    layered = TestHosts("selftest", echo=messages.append)
    with_layer = NetworkSpec("selftest", SUBNET, (Host("three", f"{PREFIX}.13"),), layers=(key,))
    try:
        with pytest.raises(TestHostsError, match="not up after"):
            layered.up(with_layer, boot_seconds=0)
        assert layered.up(with_layer)
        assert "network selftest: clearing a run that was cut off" in messages
        assert layered.execute("three", ["stat", "-c", "%u:%g %a", "/opt/tool/x"]).stdout == "1234:5678 640\n"
        for name in (key, f"{key}-off"):
            os.utime(layered.state.layers / f".{name}.json", (0, 0))
        prune(days=1000)
        assert has_layer(key)
        assert not has_layer(f"{key}-off")
    finally:
        layered.down()
    assert machine_leftovers(layered) == []
    prune(days=1000)
    assert not has_layer(key)
