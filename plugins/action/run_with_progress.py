# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Run a long command on a host, detached, and show its output while it runs.

Ansible shows a task's output when the task is over, and ``async`` shows nothing but the time that passed. A command
that takes minutes then looks like a hang. This plugin starts the command as a transient systemd unit, so that it
outlives a broken connection, and polls its log. Options and return values: ``plugins/modules/run_with_progress.py``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
import shlex
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()

CHUNK_BYTES = 192 * 1024  # of the log, read in one poll
LINES_PER_POLL = 5  # shown; a build that prints thousands of lines must not flood the screen
LINE_WIDTH = 160
LINE_KEPT = 400  # of a line in the result
KILLED = -1  # stands for the exit status that a killed command couldn't leave
HEARTBEAT_SECONDS = 30  # a command without output still shows that it runs

# Sent to the host with its variables in front (see ActionModule._remote). sh, coreutils and either systemd or ps.
# On a local connection, or without root or systemd, the command is a session of its own instead of a unit: there is no
# connection to lose, and it keeps the environment that the operator gave to ansible-playbook (proxies, pip's settings).
COMMON = r"""
has_systemd() { [ "$transport" != local ] && [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; }
if has_systemd; then base=/run/run-with-progress; else base="${XDG_CACHE_HOME:-$HOME/.cache}/run-with-progress"; fi
dir="$base/$unit"
# A worker of a killed controller may live on for a while: what belongs to its follower is no longer its business.
mine() { [ "$(cat "$dir/owner" 2>/dev/null)" = "$owner" ]; }
state() {
  if has_systemd; then
    case "$(systemctl show --property=ActiveState --value "$unit.service")" in
      inactive|failed|'') echo ended;;
      *) echo running;;
    esac
  elif ps -o args= -p "$(cat "$dir/pid" 2>/dev/null || echo 0)" 2>/dev/null | grep -qF "$dir/script"; then
    echo running
  else
    echo ended
  fi
}
"""

START = r"""
set -eu; umask 077
if [ "$(state)" = running ]; then echo "$owner" >"$dir/owner"; echo attached; exit 0; fi
rm -rf "$dir"; mkdir -p "$dir"; cp "$script" "$dir/script"; : >"$dir/log"; echo "$owner" >"$dir/owner"
if has_systemd; then
  systemd-run --quiet --collect --no-ask-password --unit="$unit" --property=RuntimeMaxSec="$limit" \
    /bin/sh "$dir/script" "$dir"
else
  start=nohup; if command -v setsid >/dev/null; then start=setsid; fi
  $start /bin/sh "$dir/script" "$dir" </dev/null >/dev/null 2>&1 &
  echo $! >"$dir/pid"
fi
echo started
"""

# The state is read before the exit status: a command that ended without leaving one was killed.
POLL = r"""
now=$(state); rc=$(cat "$dir/rc" 2>/dev/null || echo none)
printf '%s %s %s ' "$now" "$rc" "$(wc -c <"$dir/log" 2>/dev/null || echo 0)"
tail -c +"$offset" "$dir/log" 2>/dev/null | head -c "$chunk" | base64 | tr -d '\n'
"""

STOP = r"""
if ! mine; then :; elif has_systemd; then systemctl stop "$unit.service"; else
  pid=$(cat "$dir/pid"); kill -s TERM -- "-$pid" 2>/dev/null || kill -s TERM "$pid"
fi
"""

CLEAN = 'if mine; then rm -rf "$dir"; fi'


@dataclass
class Progress:
    """Turns the pieces of a log into lines and shows some of them."""

    host: str
    shown: re.Pattern[str]
    changed: re.Pattern[str] | None
    quiet: bool
    hints: dict[str, re.Pattern[str]]
    tail: deque[str]
    count: int = 0
    changed_seen: bool = False
    hints_seen: set[str] = field(default_factory=set)
    _rest: bytes = b""
    _started: float = field(default_factory=time.monotonic)
    _spoke: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Show one line, unless the task has no_log."""
        self._spoke = time.monotonic()
        if not self.quiet:
            display.display(f"[{self.host}] {text}")

    def feed(self, data: bytes, last: bool = False) -> None:
        """Take the next bytes of the log; ``last`` also takes an unfinished line."""
        parts = re.split(rb"[\r\n]+", self._rest + data)
        self._rest = b"" if last else parts.pop()
        # Control characters of a remote program have no business on the operator's terminal.
        lines = [
            re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", p.decode("utf-8", "replace")).rstrip()
            for p in parts
        ]
        lines = [line for line in lines if line]
        self.count += len(lines)
        self.tail.extend(line[:LINE_KEPT] for line in lines)
        if self.changed is not None:
            self.changed_seen = self.changed_seen or any(self.changed.search(line) for line in lines)
        self.hints_seen |= {text for text, pattern in self.hints.items() if any(pattern.search(line) for line in lines)}
        wanted = [line for line in lines if self.shown.search(line)]
        if len(wanted) > LINES_PER_POLL:
            self.say(f"… {len(wanted) - LINES_PER_POLL} more lines")
        for line in wanted[-LINES_PER_POLL:]:
            self.say(line if len(line) <= LINE_WIDTH else line[: LINE_WIDTH - 1] + "…")
        if not wanted and time.monotonic() - self._spoke >= HEARTBEAT_SECONDS:
            self.say(f"still running, {time.monotonic() - self._started:.0f} s so far")


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """The controller's half of ``gpu_cluster.platform.run_with_progress``."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = self._arguments()
        result["cmd"] = args["argv"]
        if args["creates"] and self._remote('test -e "$path"', path=args["creates"])["rc"] == 0:
            return result | {
                "changed": False,
                "rc": 0,
                "msg": f"Did not run the command since '{args['creates']}' exists",
            }
        if self._task.check_mode:
            return result | {"changed": True, "rc": 0, "msg": "The command would have run if not in check mode"}

        environment: dict[str, Any] = {}
        self._compute_environment_string(environment)
        environment |= args["environment"] or {}
        identity = json.dumps([args["argv"], args["chdir"], sorted((k, str(v)) for k, v in environment.items())])
        self._names = {
            "unit": "run-with-progress-" + hashlib.sha256(identity.encode()).hexdigest()[:16],
            "owner": secrets.token_hex(8),
            "transport": str(self._connection.transport),
        }
        progress = Progress(
            host=str(self._task.delegate_to or (task_vars or {}).get("inventory_hostname", "host")),
            shown=re.compile(args["progress_pattern"]),
            changed=re.compile(args["changed_pattern"]) if args["changed_pattern"] else None,
            quiet=bool(self._task.no_log),
            hints={hint["text"]: re.compile(hint["pattern"]) for hint in args["failure_hints"]},
            tail=deque(maxlen=args["failure_tail_lines"]),
        )

        started = time.monotonic()
        if self._start(_script(args["argv"], args["chdir"], environment), args["timeout_seconds"]) == "attached":
            progress.say("the same command of an earlier run is still at work; following it")
        code, timed_out = self._follow(progress, started, args)
        self._on_unit(CLEAN)

        result |= {
            "rc": code,
            "duration_seconds": round(time.monotonic() - started, 1),
            "log_lines": progress.count,
            "stdout_lines": list(progress.tail),
        }
        result["changed"] = progress.changed_seen if progress.changed else True
        if code != 0:
            # Ansible hides the result of a no_log task, but prints the message of its failure.
            hints = [text for text in progress.hints if text in progress.hints_seen][:1]
            lines = ["Its output is hidden: no_log."] if progress.quiet else ["Its last lines:", *progress.tail]
            reason = (
                "was killed before it ended (out of memory, or stopped by hand)"
                if code == KILLED
                else f"failed with exit status {code}"
            )
            if timed_out:
                reason = f"was stopped after {args['timeout_seconds']} s, its timeout_seconds"
            result |= {
                "failed": True,
                "msg": "\n".join([*hints, f"{args['argv'][0]} {reason}.", *lines]),
            }
        return result

    def _arguments(self) -> dict[str, Any]:
        """The validated options; spec as in the documentation stub."""
        _spec, args = self.validate_argument_spec(
            argument_spec={
                "argv": {"type": "list", "elements": "str", "required": True},
                "chdir": {"type": "path"},
                "environment": {"type": "dict"},
                "creates": {"type": "path"},
                "timeout_seconds": {"type": "int", "required": True},
                "poll_seconds": {"type": "float", "default": 2},
                "reconnect_seconds": {"type": "int", "default": 180},
                "progress_pattern": {"type": "str", "default": "."},
                "changed_pattern": {"type": "str"},
                "failure_tail_lines": {"type": "int", "default": 20},
                "failure_hints": {
                    "type": "list",
                    "elements": "dict",
                    "default": [],
                    "options": {
                        "pattern": {"type": "str", "required": True},
                        "text": {"type": "str", "required": True},
                    },
                },
            }
        )
        patterns = [(name, args[name] or "") for name in ("progress_pattern", "changed_pattern")]
        for name, pattern in [*patterns, *(("failure_hints", hint["pattern"]) for hint in args["failure_hints"])]:
            try:
                re.compile(pattern)
            except re.error as error:
                raise AnsibleActionFail(f"{name} is not a regular expression: {error}") from error
        if not args["argv"]:
            raise AnsibleActionFail("argv is empty: give the program and its arguments")
        return dict(args)

    def _remote(self, script: str, /, **variables: object) -> dict[str, Any]:
        """Run a small script on the host, with the task's become. Values are quoted, never pasted into the script."""
        head = "".join(f"{name}={shlex.quote(str(value))}; " for name, value in variables.items())
        return dict(self._low_level_execute_command(head + script.strip()))

    def _on_unit(self, script: str, /, **variables: object) -> dict[str, Any]:
        """Run one of the scripts above on this task's unit."""
        return self._remote(COMMON + script, **self._names, **variables)

    def _start(self, script: str, timeout_seconds: int) -> str:
        """Start the unit, or find it running. The script goes as a file: an environment may hold a password."""
        tmp = self._make_tmp_path()
        try:
            path = self._transfer_data(self._connection._shell.join_path(tmp, "script"), script)
            self._fixup_perms2((tmp, path), execute=False)
            # The unit's own limit is for the case that no controller is left to stop it.
            answer = self._on_unit(START, script=path, limit=timeout_seconds + 60)
        finally:
            self._remove_tmp_path(tmp)
        word = str(answer.get("stdout", "")).strip().rpartition("\n")[2]
        if answer["rc"] != 0 or word not in ("started", "attached"):
            raise AnsibleActionFail(f"could not start the command: {answer.get('stderr') or answer.get('stdout')}")
        return word

    def _follow(self, progress: Progress, started: float, args: dict[str, Any]) -> tuple[int, bool]:
        """Show the log until the command ends. Returns its exit status and whether it was stopped for its time."""
        offset, heard, stopped = 0, time.monotonic(), False
        while True:
            try:
                state, code, size, chunk = self._poll(offset)
            except AnsibleConnectionFailure:
                if time.monotonic() - heard > args["reconnect_seconds"]:
                    raise  # The command goes on; the next run of the playbook attaches to it.
                progress.say("the connection is lost; the command goes on, trying again")
                time.sleep(args["poll_seconds"])
                continue
            heard = time.monotonic()
            offset += len(chunk)
            ended = state == "ended" and offset >= size
            progress.feed(chunk, last=ended)
            if ended:
                return KILLED if code is None else code, stopped
            if heard - started > args["timeout_seconds"] and not stopped:
                self._on_unit(STOP)
                stopped = True
            if offset >= size:
                time.sleep(args["poll_seconds"])

    def _poll(self, offset: int) -> tuple[str, int | None, int, bytes]:
        """One look at the command: state, exit status if any, size of the log, the log's next bytes."""
        answer = self._on_unit(POLL, offset=offset + 1, chunk=CHUNK_BYTES)
        try:
            state, code, size, *chunk = str(answer["stdout"]).split()
            return (
                state,
                None if code == "none" else int(code),
                int(size),
                base64.b64decode("".join(chunk), validate=True),
            )
        except (ValueError, binascii.Error) as error:
            # Half an answer is what a connection that breaks at this moment gives.
            raise AnsibleConnectionFailure(
                f"no answer from the host: {answer.get('stderr') or answer.get('stdout')}"
            ) from error


def _script(argv: list[str], chdir: str | None, environment: dict[str, Any]) -> str:
    """The script that runs the command with its output in the log and leaves its exit status; $1 is its directory."""
    lines = ["umask 022", 'exec </dev/null >"$1/log" 2>&1', 'export HOME="${HOME:-/root}"']
    lines += [f"export {name}={shlex.quote(str(value))}" for name, value in environment.items()]
    command = ([f"cd {shlex.quote(chdir)} &&"] if chdir else []) + [shlex.join(argv)]
    return "\n".join(
        [*lines, " ".join(command), 'rc=$?; echo $rc >"$1/rc.part"; mv "$1/rc.part" "$1/rc"; exit $rc', ""]
    )
