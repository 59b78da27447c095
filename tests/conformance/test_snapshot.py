"""What a snapshot of an application may not have in it, and whom it can't be made of, in every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.harness import Daemon


@pytest.mark.parametrize("what", ["volume", "bind", "secret"])
def test_nothing_that_cannot_be_saved(daemon: Daemon, runtime: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    flags = {"volume": ["-v", "data:/data"], "bind": ["-v", f"{tmp_path}:/data"], "secret": ["--secret", f"{tmp_path}/secret"]}
    done = daemon.cli("create", "--runtime", runtime, "--snapshot", "app", *flags[what], "busybox", "true", check=False)
    assert done.code != 0
    assert b"snapshot" in done.err


def test_unless_it_says_that_it_reconnects(daemon: Daemon, runtime: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    command = ("create", "--name", f"again-{runtime}", "--runtime", runtime, "--snapshot-reconnect", "--secret", f"{tmp_path}/secret")
    assert b"--snapshot app" in daemon.cli(*command, "busybox", "true", check=False).err
    done = daemon.cli(*command, "-v", f"{tmp_path}:/data", "--snapshot", "app", "busybox", "true", check=False)
    assert (done.code == 0) is (runtime == "vm")
    if runtime == "vm":
        daemon.cli("rm", f"again-{runtime}")
    else:
        assert b"snapshot" in done.err


def test_only_of_what_was_made_for_it(cli: Any, runtime: str) -> None:
    name = f"plain-{runtime}"
    cli("create", "--name", name, "--runtime", runtime, "busybox", "true")
    try:
        done = cli("snapshot", "create", name, check=False)
        assert done.code != 0
        assert b"--snapshot app" in done.err
        assert cli("snapshot", "rm", "nope", check=False).code != 0
    finally:
        cli("rm", name)
