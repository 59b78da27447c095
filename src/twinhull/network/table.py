"""The live nftables table: who contributed which elements and chains, and the smallest transaction to the next state.

Every part has at least one owner (a network, a port, an instance's publications, a service); the table holds the union. After any
refusal, for example because somebody flushed the ruleset, the whole table is written anew from memory.
Used by one thread only (the network's worker).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from twinhull.network import listing, rules
from twinhull.network.rules import Element, Part
from twinhull.sys.libnftables import Nft, NftError


class Table:
    """One daemon's table."""

    def __init__(self, name: str, prefix: str) -> None:
        self._name = name
        self._prefix = prefix
        self._nft = Nft()
        self._owned: dict[str, frozenset[Part]] = {}
        self._count: Counter[Part] = Counter()
        self._noted = True
        """Whether the sets of whom flows reach have seen all flows that may still be there."""

    def open(self) -> None:
        """Put chains right and keep the elements that a predecessor left: its workloads still run. `reset` decides about those."""
        text = rules.base(self._name, self._prefix)
        self._noted = self._has(f"set inet {self._name} {rules.REACHED['udp']}") or not self._has(f"table inet {self._name}")
        try:
            self._nft.run(text)
        except NftError:
            self._noted = False
            self._nft.run(rules.recreate(self._name, text))

    def close(self, *, remove: bool) -> None:
        """Close the library's context; with `remove` the table goes first."""
        if remove:
            self._nft.run(f"add table inet {self._name}\ndelete table inet {self._name}\n")
        self._nft.close()

    def replace(self, changes: Mapping[str, Iterable[Part]]) -> None:
        """Let each owner contribute exactly these parts (none: forget the owner), in one transaction."""
        undo = {owner: self._owned.get(owner, frozenset()) for owner in changes}
        touched = frozenset().union(*undo.values(), *changes.values())
        before = {part for part in touched if part in self._count}
        self._take(changes)
        after = {part for part in touched if part in self._count}
        removed, added = before - after, after - before
        if not removed and not added:
            return
        try:
            self._apply(rules.change(self._name, removed, added))
        except NftError:
            self._take(undo)
            raise

    def reset(self, owned: Mapping[str, Iterable[Part]]) -> None:
        """Exactly these owners and parts, in one transaction."""
        self._owned.clear()
        self._count.clear()
        self._take(owned)
        self._write_whole()
        self._forget_gone()

    def repair(self) -> bool:
        """Write the table anew if somebody removed it. Returns whether that was so."""
        if self._has(f"set inet {self._name} gateway_addresses"):  # the smallest thing in it
            return False
        self._write_whole()
        return True

    def reached(self, protocol: str) -> frozenset[str] | None:
        """Addresses of instances that flows of a protocol ("tcp", "udp") have reached, as rules.REACHED tells; None: not known.

        Too many rather than too few: addresses that were given anew are still there. It spares conntrack.py's walks, which hold up
        what a processor receives for as long as they take (ctnetlink_dump_table keeps softirqs off; 20 ms with 262,144 buckets).
        """
        if not self._noted:
            return None
        try:
            found = listing.addresses(self._nft.query(f"list set inet {self._name} {rules.REACHED[protocol]}"))
        except NftError:
            return None
        return found if len(found) < rules.REACHED_MOST else None

    def foreign_policies(self) -> tuple[str, ...]:
        """Others' base chains that drop by default."""
        return listing.foreign_policies(self._nft.query("list chains"), self._name)

    def _forget_gone(self) -> None:
        """Of those who were reached, forget whom nobody can reach any more."""
        here = {part.key.split(" . ")[0] for part in self._count if isinstance(part, Element) and part.set == "hairpin"}
        for protocol, name in rules.REACHED.items():
            if gone := (self.reached(protocol) or frozenset()) - here:
                self._apply("".join(f"delete element inet {self._name} {name} {{ {address} }}\n" for address in sorted(gone)))

    def _has(self, what: str) -> bool:
        try:
            self._nft.run(f"list {what}")
        except NftError:
            return False
        return True

    def _apply(self, text: str) -> None:
        try:
            self._nft.run(text)
        except NftError:
            self._write_whole()

    def _write_whole(self) -> None:
        try:
            found = listing.present(self._nft.query(f"list table inet {self._name}"))
            self._nft.run(rules.whole(self._name, self._prefix, self._count, found.chains, found.elements))
        except NftError:
            self._noted = False
            self._nft.run(rules.recreate(self._name, rules.whole(self._name, self._prefix, self._count)))

    def _take(self, changes: Mapping[str, Iterable[Part]]) -> None:
        for owner, wanted in changes.items():
            parts = frozenset(wanted)
            for part in self._owned.pop(owner, frozenset()):
                self._count[part] -= 1
                if not self._count[part]:
                    del self._count[part]
            self._count.update(parts)
            if parts:
                self._owned[owner] = parts
