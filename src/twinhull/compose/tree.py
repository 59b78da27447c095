"""The values of a compose file, each knowing where it was written. Every stage takes and gives these.

`Map` and `Seq` are a dict and a list with the place of each entry beside it; scalars are str, int, float, bool and None. Marks follow their
values through interpolation, conversion and merging, so that an error found at the very end still names the line.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

from twinhull.errors import UserError


class Mark(NamedTuple):
    """A place: the file as the user named it, and the line from 1."""

    file: str
    line: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class ComposeError(UserError):
    """Something is wrong in a compose file or a file it names. The message begins with FILE:LINE where the place is known."""

    def __init__(self, mark: Mark | None, message: str, hint: str = "") -> None:
        super().__init__(f"{mark}: {message}" if mark else message, hint)
        self.mark = mark


class Map(dict[str, Any]):
    """A mapping. `marks`: the place of each key. `reset` and `replaced`: keys tagged `!reset` (absent here) and `!override`."""

    __slots__ = ("mark", "marks", "replaced", "reset")

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        self.marks: dict[str, Mark] = {}
        self.reset: set[str] = set()
        self.replaced: set[str] = set()

    def put(self, key: str, value: Any, mark: Mark) -> None:
        """Set an entry and its place."""
        self[key] = value
        self.marks[key] = mark

    def tagged_as(self, other: Map) -> Map:
        """The same, with the other's `!reset` and `!override`."""
        self.reset, self.replaced = set(other.reset), set(other.replaced)
        return self

    def at(self, key: str) -> Mark:
        """Where the key is, or the mapping itself."""
        return self.marks.get(key, self.mark)

    def sub(self, key: str) -> Map:
        """The mapping below a key; an empty one where there is none."""
        value = self.get(key)
        return value if isinstance(value, Map) else Map(self.at(key))

    def seq(self, key: str) -> Seq:
        """The list below a key; an empty one where there is none."""
        value = self.get(key)
        return value if isinstance(value, Seq) else Seq(self.at(key))


class Seq(list[Any]):
    """A list. `marks`: the place of each element."""

    __slots__ = ("mark", "marks")

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark
        self.marks: list[Mark] = []

    def add(self, value: Any, mark: Mark) -> None:
        """Append an element and its place."""
        self.append(value)
        self.marks.append(mark)

    def at(self, index: int) -> Mark:
        """Where the element is."""
        return self.marks[index] if index < len(self.marks) else self.mark

    def items(self) -> Iterable[tuple[Any, Mark]]:
        """Each element with its place."""
        return zip(self, self.marks, strict=True)


def copy(value: Any) -> Any:
    """A deep copy that shares scalars and marks."""
    if isinstance(value, Map):
        twin = Map(value.mark)
        twin.marks = dict(value.marks)
        twin.tagged_as(value)
        for key, item in value.items():
            twin[key] = copy(item)
        return twin
    if isinstance(value, Seq):
        row = Seq(value.mark)
        for item, mark in value.items():
            row.add(copy(item), mark)
        return row
    return value


def place(root: Any, path: Iterable[str | int]) -> Mark:
    """Where the value at a path is; where the path ends early, its last known place."""
    mark: Mark = root.mark
    for step in path:
        if isinstance(root, Map) and step in root:
            mark, root = root.at(str(step)), root[str(step)]
        elif isinstance(root, Seq) and isinstance(step, int) and step < len(root):
            mark, root = root.at(step), root[step]
        else:
            break
    return mark


def plain(value: Any) -> Any:
    """The same as ordinary dicts and lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def dotted(path: Iterable[str | int]) -> str:
    """ "services.web.ports[0]"."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that looks most like this one, or ""."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ ": did you mean X?", or ""."""
    near = nearest(word, known)
    return f": did you mean {near!r}?" if near else ""
