"""The parser of all commands; what each does stands in the module of its group."""

from __future__ import annotations

import argparse

from .. import __version__
from . import (
    aligning,
    augmenting,
    carrying,
    judging,
    learning,
    populating,
    segmenting,
    sharing,
    showing,
    simulating,
    steering,
    synthesizing,
)

GROUPS = (
    learning,
    aligning,
    augmenting,
    carrying,
    segmenting,
    simulating,
    populating,
    sharing,
    synthesizing,
    steering,
    judging,
    showing,
)
"""A module a group of commands, each with a function ``add``. A new command is added to one, or is a new one here."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="gedgan", description="Learn from scans and synthesize new ones with their segmentations."
    )
    parser.add_argument("--version", action="version", version=f"gedgan {__version__}")
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(kinds)
    for command in kinds.choices.values():
        command.add_argument("--events", choices=("-",), help="print one JSON object a line instead of a progress bar")
    return parser
