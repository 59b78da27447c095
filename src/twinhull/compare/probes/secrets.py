"""What the host might have left lying about: environment, host names in files, the canary itself."""

from __future__ import annotations

import os

from .table import Denied, Owner, Place, attempt


@attempt("leaks", Owner.HOST, "look for the daemon's variables in every environment", "a variable")
def environments(place: Place) -> str:
    marks = (b"TWINHULL", b"_OCI_", b"NOTIFY_SOCKET", b"XDG_RUNTIME", b"TMPDIR")
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    found = [entry for entry in file.read().split(b"\0") if entry.startswith(marks)]
            except OSError:
                continue
            if found:
                return f"process {name}: {found[0].decode(errors='replace')}"
    raise Denied("none")


@attempt("leaks", Owner.HOST, "look for the canary in the file tree, /proc and the own memory's files", "its text")
def canary_anywhere(place: Place) -> str:
    for root in ("/tmp", "/run", "/var", "/etc", "/root", "/home", "/mnt"):
        for at, _, names in os.walk(root):
            if place.read_only and at.startswith(place.read_only):
                continue
            for name in names:
                if os.path.basename(place.canary_path) == name:
                    return f"{at}/{name}"
    raise Denied("not there")


@attempt("leaks", Owner.HOST, "look for descriptors beyond 0, 1 and 2 in process 1 and here", "a descriptor")
def descriptors(place: Place) -> str:
    for at in ("/proc/1/fd", f"/proc/{os.getppid()}/fd"):
        for name in os.listdir(at):
            try:
                target = os.readlink(f"{at}/{name}")
            except FileNotFoundError:
                continue
            if int(name) > 2 and target.startswith("/") and not os.path.exists(target):
                return f"{at}/{name} → {target}"
    raise Denied("none")
