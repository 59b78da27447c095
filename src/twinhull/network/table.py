"""The live nftables table: who contributed which elements, and the smallest transaction to the next state.

Every element has at least one owner (a network, a port, an instance's publications); the table holds the union. After any
refusal, for example because somebody flushed the ruleset, the whole table is written anew from memory.
Used by one thread only (the network's worker).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from twinhull.network import rules
from twinhull.network.rules import Element
from twinhull.sys.libnftables import Nft, NftError


class Table:
    """One daemon's table."""

    def __init__(self, name: str, prefix: str) -> None:
        self._name = name
        self._prefix = prefix
        self._nft = Nft()
        self._owned: dict[str, frozenset[Element]] = {}
        self._count: Counter[Element] = Counter()

    def open(self) -> None:
        """Put chains right and keep the elements that a predecessor left: its workloads still run. `reset` decides about those."""
        text = rules.base(self._name, self._prefix)
        try:
            self._nft.run(text)
        except NftError:
            self._nft.run(rules.recreate(self._name, text))

    def close(self, *, remove: bool) -> None:
        """Close the library's context; with `remove` the table goes first."""
        if remove:
            self._nft.run(f"add table inet {self._name}\ndelete table inet {self._name}\n")
        self._nft.close()

    def replace(self, changes: Mapping[str, Iterable[Element]]) -> None:
        """Let each owner contribute exactly these elements (none: forget the owner), in one transaction."""
        undo = {owner: self._owned.get(owner, frozenset()) for owner in changes}
        touched = frozenset().union(*undo.values(), *changes.values())
        before = {element for element in touched if element in self._count}
        self._take(changes)
        after = {element for element in touched if element in self._count}
        removed, added = sorted(before - after, key=_order), sorted(after - before, key=_order)
        if not removed and not added:
            return
        try:
            self._apply(rules.change(self._name, removed, added))
        except NftError:
            self._take(undo)
            raise

    def reset(self, owned: Mapping[str, Iterable[Element]]) -> None:
        """Exactly these owners and elements, in one transaction."""
        self._owned.clear()
        self._count.clear()
        self._take(owned)
        self._write_whole()

    def repair(self) -> bool:
        """Write the table anew if somebody removed it. Returns whether that was so."""
        try:
            self._nft.run(f"list chain inet {self._name} guard")
        except NftError:
            self._write_whole()
            return True
        return False

    def foreign_policies(self) -> tuple[str, ...]:
        """Others' base chains that drop by default; see rules.py."""
        return rules.foreign_policies(self._nft.query("list chains"), self._name)

    def _apply(self, text: str) -> None:
        try:
            self._nft.run(text)
        except NftError:
            self._write_whole()

    def _write_whole(self) -> None:
        text = rules.whole(self._name, self._prefix, sorted(self._count, key=_order))
        try:
            self._nft.run(text)
        except NftError:
            self._nft.run(rules.recreate(self._name, text))

    def _take(self, changes: Mapping[str, Iterable[Element]]) -> None:
        for owner, wanted in changes.items():
            elements = frozenset(wanted)
            for element in self._owned.pop(owner, frozenset()):
                self._count[element] -= 1
                if not self._count[element]:
                    del self._count[element]
            self._count.update(elements)
            if elements:
                self._owned[owner] = elements


def _order(element: Element) -> tuple[str, str]:
    return element.set, element.key
