"""The machine's own registry settings, for the hosts: apt, certificates, pip, name servers.

Hosts must reach packages the way the machine does. What the machine has is copied into the base tree in the state
directory, never into the repository.
"""

from __future__ import annotations

import base64
import configparser
import ipaddress
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MachineError
from .shell import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

_POCKETS = ("", "-updates", "-security", "-backports", "-proposed-updates")
_APT_SETTINGS = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv",
    "Acquire::Languages",
)
_PIP_SETTINGS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "timeout",
    "default-timeout",
    "retries",
    "proxy",
)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s+(.+?)\s+-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class AptSource:
    """One archive: where it is, and what of it is used."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = DEBIAN_KEYRING

    def render(self) -> str:
        """A deb822 stanza."""
        return (
            f"Types: deb\nURIs: {' '.join(self.uris)}\nSuites: {' '.join(self.suites)}\n"
            f"Components: {' '.join(self.components)}\nSigned-By: {self.signed_by}\n"
        )


def debian_sources(suite: str, texts: Iterable[tuple[str, str]], machine_suite: str | None) -> list[AptSource]:
    """The machine's own Debian archives for a suite, or none.

    Args:
        suite: the Debian release wanted.
        texts: file name and text of every apt source file of the machine.
        machine_suite: the machine's own release where it is a Debian: its archives then hold other suites as well.
    """
    parsed = [source for name, text in texts for source in _parse(name, text)]
    for release in (suite, machine_suite):
        found = [kept for source in parsed if release and (kept := _of_release(source, release))]
        if found:
            return [
                AptSource(
                    source.uris,
                    tuple(suite + pocket.removeprefix(release or "") for pocket in source.suites),
                    source.components,
                    source.signed_by,
                )
                for source in found
            ]
    return []


def _parse(name: str, text: str) -> Iterable[AptSource]:
    if name.endswith(".sources"):
        for stanza in re.split(r"\n\s*\n", text):
            fields: dict[str, str] = {}
            key = ""
            for row in stanza.splitlines():
                if row.startswith("#"):
                    continue
                if row[:1].isspace():
                    fields[key] = fields.get(key, "") + "\n" + row.strip()
                elif ":" in row:
                    key, _, value = row.partition(":")
                    key = key.strip().lower()
                    fields[key] = value.strip()
            if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
                yield AptSource(
                    tuple(fields.get("uris", "").split()),
                    tuple(fields.get("suites", "").split()),
                    tuple(fields.get("components", "").split()),
                    fields.get("signed-by", DEBIAN_KEYRING),
                )
        return
    for row in text.splitlines():
        match = re.fullmatch(
            r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]+?)\s*(#.*)?",
            row.strip(),
        )
        if match:
            signed = re.search(r"signed-by=(\S+)", match["options"] or "")
            yield AptSource(
                (match["uri"],),
                (match["suite"],),
                tuple(match["components"].split()),
                signed[1] if signed else DEBIAN_KEYRING,
            )


def _of_release(source: AptSource, release: str) -> AptSource | None:
    # Other archives use Debian's suite names too (`stable`, `test` of theirs): Debian's own has `main` and its keyring.
    suites = tuple(suite for suite in source.suites if suite in {release + pocket for pocket in _POCKETS})
    if not suites or "main" not in source.components or "debian-archive" not in source.signed_by:
        return None
    return AptSource(source.uris, suites, source.components)


def machine_sources(suite: str) -> list[AptSource]:
    """What hosts of this suite install from: the machine's own Debian archives; none where it isn't a Debian."""
    etc = Path("/etc/apt")
    files = [
        etc / "sources.list",
        *sorted((etc / "sources.list.d").glob("*.list")),
        *sorted((etc / "sources.list.d").glob("*.sources")),
    ]
    texts = [(path.name, path.read_text(errors="replace")) for path in files if path.is_file()]
    release = os_release()
    own = release.get("VERSION_CODENAME") if release.get("ID") == "debian" else None
    return debian_sources(suite, texts, own)


def os_release() -> Mapping[str, str]:
    """The machine's /etc/os-release."""
    rows = (row.partition("=") for row in Path("/etc/os-release").read_text().splitlines() if "=" in row)
    return {key: value.strip().strip("\"'") for key, _, value in rows}


def apt_settings() -> list[str]:
    """The machine's settings of how apt reaches its archives, as apt.conf lines.

    Hooks and paths of programs are left out: they need not exist in a host.
    """
    rows = run(["apt-config", "dump"]).stdout.splitlines()
    return [row for row in rows if row.startswith(_APT_SETTINGS) and not row.endswith(' "";') and "Auto" not in row]


def apt_setting_files(rows: Sequence[str]) -> list[Path]:
    """Certificates and keys that apt settings name, which hosts need at the same path."""
    found = (re.fullmatch(r'\S+::(?:CaInfo|SslCert|SslKey) "(/[^"]+)";', row) for row in rows)
    return [Path(match[1]) for match in found if match and Path(match[1]).is_file()]


def apt_auth_files() -> list[Path]:
    """apt's own password files."""
    etc = Path("/etc/apt")
    return [path for path in (etc / "auth.conf", *sorted((etc / "auth.conf.d").glob("*.conf"))) if path.is_file()]


def extra_certificates(ours: str, theirs: str) -> list[str]:
    """The certificates (PEM) of our bundle that another bundle lacks, by content."""

    def bodies(bundle: str) -> dict[bytes, str]:
        return {base64.b64decode(match[1]): match[0] for match in _PEM.finditer(bundle)}

    present = bodies(theirs)
    return [pem for der, pem in bodies(ours).items() if der not in present]


def pip_conf(files: Iterable[str], environment: Mapping[str, str]) -> str:
    """The text of the hosts' pip.conf.

    Args:
        files: texts of the machine's pip.conf files, the strongest last.
        environment: for `PIP_INDEX_URL` and the like, stronger than any file.

    Local places (`file:` addresses, paths) are left out, since hosts don't have them. Certificates are checked against
    the system's bundle, which holds the machine's own authorities.
    """
    values: dict[str, str] = {}
    for text in files:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(text)
        except configparser.Error:
            continue  # pip itself would complain; the hosts do without
        if parser.has_section("global"):
            values.update({key.replace("_", "-"): value for key, value in parser.items("global")})
    for key in _PIP_SETTINGS:
        if value := environment.get("PIP_" + key.upper().replace("-", "_")):
            values[key] = value
    rows = ["[global]", f"cert = {CA_BUNDLE}"]
    for key in _PIP_SETTINGS:
        kept = [part for part in values.get(key, "").split() if not part.startswith(("file:", "/", "~", "."))]
        if kept:
            rows.append(f"{key} = {' '.join(kept)}")
    return "\n".join(rows) + "\n"


def machine_pip_conf() -> str:
    """The hosts' pip.conf, from what the machine (and the user who called sudo) has."""
    caller = os.environ.get("SUDO_USER")
    home = Path(pwd.getpwnam(caller).pw_dir) if caller else Path.home()
    paths = (
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
    )
    return pip_conf([path.read_text(errors="replace") for path in paths if path.is_file()], os.environ)


def resolv_conf(candidates: Iterable[str]) -> str | None:
    """The first of several resolv.conf texts that names a server which hosts can reach: not one on a loopback."""
    for text in candidates:
        servers = [row.split()[1] for row in text.splitlines() if row.startswith("nameserver") and len(row.split()) > 1]
        reachable = [server for server in servers if not _is_loopback(server)]
        if reachable:
            kept = [row for row in text.splitlines() if row.split()[:1] in (["search"], ["domain"], ["options"])]
            return "\n".join([*kept, *(f"nameserver {server}" for server in reachable)]) + "\n"
    return None


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True


def machine_resolv_conf() -> str:
    """The hosts' resolv.conf: the machine's, or what stands behind its local resolver.

    Raises:
        MachineError: the machine knows only a resolver on its own loopback.
    """
    paths = (
        Path("/etc/resolv.conf"),
        Path("/run/systemd/resolve/resolv.conf"),
        Path("/run/NetworkManager/no-stub-resolv.conf"),
    )
    text = resolv_conf(path.read_text(errors="replace") for path in paths if path.is_file())
    if text is None:
        raise MachineError(
            f"none of {', '.join(map(str, paths))} names a DNS server outside the machine's loopback, so hosts could "
            "not resolve names; add a reachable `nameserver` line to /etc/resolv.conf"
        )
    return text
