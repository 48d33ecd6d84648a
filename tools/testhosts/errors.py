"""The errors of this package: each says what is wrong, where, and what to do."""

from __future__ import annotations


class TestHostsError(Exception):
    """Base of every error that this package raises on purpose.

    The command line prints its text without a traceback and exits with 1.
    """

    __test__ = False  # pytest must not take it for a test class


class SpecError(TestHostsError):
    """What was asked for makes no sense, or differs from what is running."""


class MachineError(TestHostsError):
    """The machine lacks something: root, a program, a kernel feature, a free port or subnet."""


class CommandError(TestHostsError):
    """A program that this package runs has failed; the text holds its last output."""


class BuildError(TestHostsError):
    """A base tree or a layer could not be built."""


class BootError(TestHostsError):
    """A host did not boot, or did not come back; the text holds the end of its console."""
