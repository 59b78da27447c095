"""Which names every address has, and the files in which the resolvers find them.

One file per network and address: whatever contributes names to an address, its instance and the services in front of it, ends up
in one line, and the first name of that line is what a reverse lookup gives. Owners are sorted, so that an instance's own name
comes before a service's. A file renamed into place is live with the next query (dnsmasq's --hostsdir, inotify).
Used on the event loop only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from twinhull.home import Home
from twinhull.network.files import check_name
from twinhull.spec.network import NetworkRecord
from twinhull.sys import fs, trees

Place = tuple[int, str]
"""(network number, address)"""
Owner = tuple[str, str]
"""("instance" or "service", id)"""
Entries = Mapping[Place, Sequence[str]]

_ELSEWHERE = "/run/twinhull-names-"
_OWNER = ".home"


def hosts_line(address: str, names: Sequence[str]) -> str:
    """One line of a hosts file; the first name is the one that a reverse lookup gives."""
    return f"{address} {' '.join(check_name(name) for name in dict.fromkeys(names))}\n"


class Names:
    """All names of one daemon."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = _served_folder(home)
        self._owned: dict[Owner, Entries] = {}

    def open(self) -> None:
        """Make the folder. What a predecessor left is served until `reset`."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._folder.chmod(0o755)
        _sign(self._folder, self._home)
        _remove_orphans()

    def remove(self) -> None:
        """Forget everything."""
        self._owned.clear()
        trees.remove(self._folder)

    def folder(self, number: int) -> Path:
        """Where the files of a network are."""
        return self._folder / f"{number:x}"

    def add_network(self, record: NetworkRecord) -> None:
        """Make the folder for the network's names."""
        folder = self.folder(record.number)
        folder.mkdir(exist_ok=True, mode=0o755)
        folder.chmod(0o755)

    def remove_network(self, record: NetworkRecord) -> None:
        """Forget all its names."""
        for owner, entries in list(self._owned.items()):
            self._owned[owner] = {place: names for place, names in entries.items() if place[0] != record.number}
        trees.remove(self.folder(record.number))

    def replace(self, owner: Owner, entries: Entries) -> None:
        """Exactly these names from this owner (none: forget it). Raises UserError, and then nothing has changed."""
        _check(entries)
        before = self._owned.pop(owner, {})
        if entries:
            self._owned[owner] = entries
        # first what is new, then what is gone: a name that moves is never unknown
        for place in sorted({*before, *entries}, key=lambda place: (place not in entries, place)):
            if before.get(place) != entries.get(place):
                self._write(place, self._names(place))

    def reset(self, owned: Mapping[Owner, Entries], numbers: Collection[int]) -> None:
        """Exactly these owners and names, on the networks of these numbers; the files of all others go."""
        for entries in owned.values():
            _check(entries)
        self._owned = {owner: entries for owner, entries in owned.items() if entries}
        wanted: dict[Place, list[str]] = {}
        for owner in sorted(self._owned):
            for place, names in self._owned[owner].items():
                wanted.setdefault(place, []).extend(names)
        for place, names in wanted.items():
            self._write(place, names)
        self._prune(wanted, numbers)

    def _prune(self, wanted: Collection[Place], numbers: Collection[int]) -> None:
        for folder in self._folder.iterdir():
            if folder.name.startswith("."):
                continue
            number = int(folder.name, 16)
            if number not in numbers:
                trees.remove(folder)
                continue
            for path in folder.iterdir():
                if (number, path.name) not in wanted:
                    path.unlink(missing_ok=True)

    def _names(self, place: Place) -> list[str]:
        return [name for owner in sorted(self._owned) for name in self._owned[owner].get(place, ())]

    def _write(self, place: Place, names: Sequence[str]) -> None:
        number, address = place
        path = self.folder(number) / address
        if not names:
            path.unlink(missing_ok=True)
        elif _content(path) != (text := hosts_line(address, names)):
            fs.write_atomic(path, text, sync=False)


def _check(entries: Entries) -> None:
    for names in entries.values():
        for name in names:
            check_name(name)


def _served_folder(home: Home) -> Path:
    """Where the names are: below the home if an unprivileged user gets there, else in a folder of /run that carries the home's tag."""
    parents = [path for path in (home.run, *home.run.parents) if path.exists()]
    if all(path.stat().st_mode & 0o001 for path in parents):
        return home.run / "names"
    return Path(f"{_ELSEWHERE}{home.tag}")


def _sign(folder: Path, home: Home) -> None:
    """Write down whose folder it is."""
    owner = folder / _OWNER
    if not owner.is_symlink():
        owner.symlink_to(home.run)


def _remove_orphans() -> None:
    """Folders of /run whose home was deleted without `close(remove=True)`."""
    for folder in Path(_ELSEWHERE).parent.glob(f"{Path(_ELSEWHERE).name}*"):
        if (folder / _OWNER).is_symlink() and not (folder / _OWNER).exists():
            trees.remove(folder)


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
