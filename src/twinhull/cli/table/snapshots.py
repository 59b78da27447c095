"""Rows of snapshots of applications."""

from __future__ import annotations

from twinhull.cli.option import FORMAT, JSON, NO_TRUNC, QUIET, Argument, Command

COMMANDS = (
    Command(
        "snapshot create",
        "keep a running instance as it is now, warm, for others like it to go on from",
        "snapshots:create",
        (),
        (Argument("instance", "made with --snapshot app", complete="running"),),
        (("twinhull snapshot create web", "its next copies begin where it is"),),
    ),
    Command(
        "snapshot ls",
        "list snapshots",
        "snapshots:listing",
        (FORMAT, JSON, QUIET, NO_TRUNC),
        (),
        (("twinhull snapshot ls", ""),),
        aliases=("snapshot list",),
    ),
    Command(
        "snapshot rm",
        "remove snapshots; what went on from them lives",
        "snapshots:remove",
        (),
        (Argument("snapshot", "the beginning of its key", most=0),),
        (("twinhull snapshot rm 1f09", ""),),
        aliases=("snapshot remove",),
    ),
)
