# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Documentation of the action plugin of the same name; nothing here runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_with_progress
short_description: Run a long command on a host and show its output while it runs
description:
  - Runs a command on the managed host and shows its lines on the control node's screen while it runs,
    each with the host's name in front.
  - On a host with systemd and as root, the command is a transient unit. It outlives the connection; one that drops
    between two looks is made again. Elsewhere, and always on a local connection, it is a session of its own, with the
    environment of C(ansible-playbook).
  - The name of the unit comes from the command, its directory and its environment. If the same command of an earlier
    run is still at work, because the control node was stopped, the task follows it instead of starting a second one.
  - The output is kept in a file that only the task's user can read. It is removed when the task is over.
  - It shows at most a few lines per look and says how many it left out. A command that is silent for 30 seconds gets
    a line that says that it still runs.
  - With C(no_log) no line is shown.
version_added: 0.1.0
author: GPU Cluster Platform maintainers
options:
  argv:
    description: The program and its arguments. No shell is involved.
    type: list
    elements: str
    required: true
  chdir:
    description: The directory to run in.
    type: path
  environment:
    description:
      - Environment of the command, on top of the task's C(environment). As a unit it gets nothing else of the login's.
    type: dict
  creates:
    description: A path. If it exists the command doesn't run.
    type: path
  timeout_seconds:
    description: After this many seconds the command is stopped and the task fails.
    type: int
    required: true
  poll_seconds:
    description: Seconds between two looks at the output.
    type: float
    default: 2
  reconnect_seconds:
    description: For how long a lost connection is tried again before the host is unreachable. The command goes on.
    type: int
    default: 180
  progress_pattern:
    description: Regular expression; only lines in which it is found are shown.
    type: str
    default: "."
  changed_pattern:
    description:
      - Regular expression; the task is changed only if it is found in a line.
      - Without it a command that ran is a change.
    type: str
  failure_tail_lines:
    description: How many of the last lines are kept for C(stdout_lines) and for the message of a failure.
    type: int
    default: 20
  failure_hints:
    description: What a failure means; the first whose pattern is found in the output stands first in the message.
    type: list
    elements: dict
    default: []
    suboptions:
      pattern:
        description: Regular expression.
        type: str
        required: true
      text:
        description: The cause and the fix, for the operator.
        type: str
        required: true
attributes:
  check_mode:
    support: full
    description: The command doesn't run; the task says whether it would, by O(creates).
"""

EXAMPLES = r"""
- name: Compile the bytecode
  gpu_cluster.platform.run_with_progress:
    argv: [python3, -m, compileall, -j, "0", /opt/app]
    progress_pattern: ^Listing
    timeout_seconds: 600
"""

RETURN = r"""
cmd:
  description: The command.
  returned: always
  type: list
  elements: str
rc:
  description: Exit status; -1 if the command was stopped or killed before it could leave one.
  returned: always
  type: int
stdout_lines:
  description: The last lines, O(failure_tail_lines) at most.
  returned: when the command ran
  type: list
  elements: str
log_lines:
  description: How many lines the command printed that were not empty.
  returned: when the command ran
  type: int
duration_seconds:
  description: Seconds from the start (or from attaching) to the end.
  returned: when the command ran
  type: float
msg:
  description: Why it didn't run, or what went wrong with the last lines.
  returned: when it didn't run or failed
  type: str
"""
