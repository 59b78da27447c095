"""The compose files that a command line means: -f, -p, --profile, --env-file, --project-directory. What is wrong in them is bad usage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from twinhull.cli.parse import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinhull.cli.parse import Arguments
    from twinhull.compose import Loaded
    from twinhull.spec.app import AppSpec


def resolve(args: Arguments, services: Sequence[str] = (), *, interpolate: bool = True) -> Loaded:
    """The files resolved. services: named on the command line, so that their profiles are active. Raises UsageError: exit code 2."""
    from twinhull.compose import ComposeError
    from twinhull.compose import resolve as read

    folder = args.text("project_directory")
    try:
        return read(
            [Path(name) for name in args.many("file")],
            project=args.text("project_name"),
            profiles=args.many("profile"),
            env_files=[Path(name) for name in args.many("env_file")],
            environment=os.environ,
            folder=Path(folder) if folder else None,
            services=services,
            interpolate=interpolate,
        )
    except ComposeError as error:
        raise UsageError(error.message, error.hint) from None


def spec(loaded: Loaded) -> AppSpec:
    """The application that the files describe. Raises UsageError."""
    from twinhull.compose import ComposeError

    try:
        return loaded.spec()
    except ComposeError as error:
        raise UsageError(error.message, error.hint) from None


def is_here() -> bool:
    """Whether there is a compose file in this folder or above, or COMPOSE_FILE names one."""
    if os.environ.get("COMPOSE_FILE"):
        return True
    from twinhull.compose import files

    return any((folder / name).exists() for folder in (Path.cwd(), *Path.cwd().parents) for name in files.NAMES)
