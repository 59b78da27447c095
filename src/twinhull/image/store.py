"""The images of one home: looked up without a subprocess, changed through skopeo and buildah.

Laws: looking (`resolve`, `images`, `layers`, `history`) reads containers/storage's JSON and is answered from memory while nothing changed.
An operation that fails or is cancelled leaves no image, no working container, no mount and no file behind; concurrent operations,
also by podman beside us, are parted by containers/storage's own locks. Called by `engine/local.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twinhull.errors import ConflictError, NotFoundError, PermanentError, TemporaryError, UserError
from twinhull.home import Home
from twinhull.image import archive, build, layout, reference, rootfs, save, scratch, tools
from twinhull.image import changes as instructions
from twinhull.image.base import BootstrapSpec, BuildSpec, ImageView
from twinhull.image.bootstrap import Bootstrap, image_config
from twinhull.image.storage import Catalog, Storage, Stored, seconds

_FILTERS = ("reference", "dangling", "label", "before", "since", "until")
_CLEANUP = 60.0
"""Seconds that cleaning up after a failed operation may take."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What images cost in bytes. `unique`: by image id, what no other image shares. `cache`: erofs files and bootstrapped roots."""

    images: int
    size: int
    unique: dict[str, int]
    cache: int


class ImageStore:
    """See the module."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.storage = Storage((home.images,)) if home.images is not None else Storage.of_system()
        self.tools = tools.Tools(home)

    # looking

    async def resolve(self, ref: str) -> ImageView:
        """By name, name:tag, name@digest, id or an unambiguous prefix of one. Raises NotFoundError with what to do."""
        return self.storage.view(self._find(ref))

    async def images(self, filters: dict[str, tuple[str, ...]] | None = None) -> tuple[ImageView, ...]:
        """Newest first. filters: reference (glob), dangling, label ("k" or "k=v"), before, since (an image), until (seconds since 1970)."""
        views = [self.storage.view(image) for image in self.storage.catalog().images.values()]
        for key, values in (filters or {}).items():
            if key not in _FILTERS:
                raise UserError(f"unknown image filter {key!r}", f"use one of {', '.join(_FILTERS)}")
            views = [view for view in views if any(self._matches(view, key, value) for value in values)]
        return tuple(sorted(views, key=lambda view: (-view.created_at, view.id)))

    async def history(self, ref: str) -> tuple[dict[str, object], ...]:
        """Newest first, as Docker tells it: Id, Created, CreatedBy, Size, Comment, Tags."""
        image = self._find(ref)
        config, sizes = self.storage.config(image), [layer.size for layer in self.storage.chain(image)]
        entries = list(reversed(config.get("history") or []))
        rows: list[dict[str, object]] = []
        for number, entry in enumerate(entries):
            size = 0 if entry.get("empty_layer") else sizes.pop(0) if sizes else 0
            first = number == 0
            row = {"Id": image.id if first else "<missing>", "Created": entry.get("created", ""), "CreatedBy": entry.get("created_by", "")}
            rows.append(row | {"Size": size, "Comment": entry.get("comment", ""), "Tags": list(image.names) if first else []})
        return tuple(rows)

    async def layers(self, image_id: str) -> tuple[Path, ...]:
        """The layers' folders, topmost first: an overlay's lower directories. Nothing is mounted."""
        return self.storage.folders(self._by_id(image_id))

    async def erofs(self, image_id: str) -> Path:
        """The image as one read-only erofs file, made the first time."""
        image = self._by_id(image_id)
        created = self.storage.config(image).get("created") or ""
        return await rootfs.ensure(self.home, image_id, self.storage.folders(image), seconds(created))

    # taking in

    async def build(self, spec: BuildSpec) -> AsyncIterator[str]:
        """Progress lines, the last one "id: <hex>". Raises UserError with the line of the Containerfile."""
        file = build.containerfile(spec)
        build.check(file)
        marker = f"/twinhull-build-{uuid.uuid4().hex}"
        with self._scratch() as work:
            iid = work / "iid"
            try:
                async for line in self.tools.stream(build.argv(spec, file, iid, marker), work):
                    yield line
            except tools.ToolError as error:
                raise build.failure(error, file) from error
            finally:
                if not iid.exists():
                    await self._remove_leftovers(marker, work)
            yield f"id: {iid.read_text().strip().removeprefix('sha256:')}"

    async def bootstrap(self, spec: BootstrapSpec) -> AsyncIterator[str]:
        """Progress lines, the last one "id: <hex>"."""
        tag = reference.local(spec.tag or f"{spec.distribution}:{spec.suite}")
        maker = Bootstrap(self.home, self.tools)
        with self._scratch() as work:
            async for line in maker.make(spec, work):
                yield line
            root = maker.root
            assert root is not None
            copy = work / "layer.tar"
            os.link(root.path, copy)
            layer = layout.Blob(f"sha256:{root.digest}", copy.stat().st_size, copy)
            note = {"created_by": f"twinhull image bootstrap {spec.distribution}:{spec.suite}", "comment": " ".join(spec.packages)}
            base = layout.empty_config(archive.architecture())
            config = layout.appended(base, layer, image_config(spec, root), created=root.date, note=note)
            view = await self._put(work, config, [layer], tag)
            yield f"id: {view.id}"

    async def pull(self, ref: str, *, tls_verify: bool = True) -> AsyncIterator[str]:
        """Progress lines, the last one "id: <hex>". Short names belong to docker.io."""
        name = reference.remote(ref)
        argv = tools.skopeo(
            "copy", "--retry-times=1", f"--src-tls-verify={_word(tls_verify)}", f"docker://{_for_docker(name)}", _stored(name)
        )
        with self._scratch() as work:
            try:
                async for line in self.tools.stream(argv, work):
                    yield line
            except tools.ToolError as error:
                raise tools.explain(f"pull {name}", error) from error
        yield f"id: {self._find(name).id}"

    async def push(self, ref: str, destination: str = "", *, tls_verify: bool = True) -> AsyncIterator[str]:
        """Progress lines, then "digest: sha256:…" and "id: <hex>". destination "": the image's own name."""
        image = self._find(ref)
        target = reference.remote(destination or self._pushable(image, ref))
        with self._scratch() as work:
            options = (f"--dest-tls-verify={_word(tls_verify)}", "--retry-times=1", f"--digestfile={work / 'digest'}")
            argv = tools.skopeo("copy", *options, _stored(f"@{image.id}"), f"docker://{target}")
            try:
                async for line in self.tools.stream(argv, work):
                    yield line
            except tools.ToolError as error:
                raise tools.explain(f"push {target}", error) from error
            yield f"digest: {(work / 'digest').read_text().strip()}"
        yield f"id: {image.id}"

    async def load(self, stream: AsyncIterator[bytes]) -> tuple[str, ...]:
        """Take in an archive by `docker save`, `podman save` or skopeo, compressed or not. The names (or ids of nameless images)."""
        what = "load"
        with self._scratch() as work:
            path = await self._received(stream, work, what)
            sources = await asyncio.to_thread(archive.images, path, what)
            named = [(source, [reference.remote(name) for name in source.names if _is_name(name)]) for source in sources]
            loaded: list[str] = []
            for source, names in named:
                await self._copy_in(source.name, names[0] if names else f"@{source.id}", work, what)
                for name in names[1:]:
                    await self._tag(source.id, name, work)
                loaded += names or [f"sha256:{source.id}"]
        return tuple(loaded)

    async def import_(self, stream: AsyncIterator[bytes], tag: str = "", changes: tuple[str, ...] = (), *, message: str = "") -> ImageView:
        """A root file system's tar, compressed or not, as an image of one layer. tag "": nameless."""
        name = reference.local(tag) if tag else ""
        config = instructions.apply({}, changes)
        with self._scratch() as work:
            path = await self._received(stream, work, "import")
            layer = await asyncio.to_thread(_blob, path)
            note = {"created_by": "twinhull image import", "comment": message}
            base = layout.empty_config(archive.architecture())
            whole = layout.appended(base, layer, config, created=time.time(), note=note)
            return await self._put(work, whole, [layer], name)

    async def commit(
        self, base_image_id: str, layer_tar: AsyncIterator[bytes], tag: str = "", message: str = "", changes: tuple[str, ...] = ()
    ) -> ImageView:
        """The base image and exactly one more layer, whiteouts (".wh.…") as they are."""
        name = reference.local(tag) if tag else ""
        base = self._by_id(base_image_id)
        before = self.storage.config(base)
        config = instructions.apply(before.get("config") or {}, changes)
        with self._scratch() as work:
            path = await self._received(layer_tar, work, "commit")
            layer = await asyncio.to_thread(_blob, path)
            note = {"created_by": "twinhull commit", "comment": message}
            whole = layout.appended(before, layer, config, created=time.time(), note=note)
            below = [layout.Blob(item.digest, item.size) for item in reversed(self.storage.chain(base))]
            return await self._put(work, whole, [*below, layer], name)

    # giving out

    async def save(self, refs: tuple[str, ...], format: str = "docker-archive") -> AsyncIterator[bytes]:
        """One archive of all, "docker-archive" or "oci-archive", as a tar stream. Named by the names asked for."""
        if not refs:
            raise UserError("save: no image is named")
        if format not in save.FORMATS:
            raise UserError(f"save: unknown format {format!r}", f"use one of {', '.join(save.FORMATS)}")
        wanted = self._wanted(refs)
        with self._scratch() as work:
            for image_id in wanted:
                await self._run(save.copy(image_id), work, f"save {image_id[:12]}")
            async for data in save.stream(format, work, wanted):
                yield data

    # names and removal

    async def tag(self, ref: str, name: str) -> None:
        """One more name; it moves if another image has it."""
        image, full = self._find(ref), reference.local(name)
        with self._scratch() as work:
            await self._tag(image.id, full, work)

    async def remove(self, ref: str, *, force: bool = False) -> tuple[str, ...]:
        """By one of several names: only that name goes ("untagged: …"). By id or last name: the image ("deleted: …").

        Whether instances use the image is the engine's to know. Raises ConflictError for an id with several names, unless forced.
        """
        image = self._find(ref)
        name = self._name_of(image, ref)
        if name and len(image.names) > 1:
            await self._buildah("rmi", name, what=f"remove {name}")
            return (f"untagged: {name}",)
        if len(image.names) > 1 and not force:
            raise ConflictError(f"image {image.id[:12]} has several names: {', '.join(image.names)}", "remove it by name, or use --force")
        await self._buildah("rmi", *(["--force"] if force else []), image.id, what=f"remove {ref}")
        return (*(f"untagged: {item}" for item in image.names), f"deleted: {image.id}")

    async def prune(self, *, all_: bool = False, keep: set[str] | None = None) -> tuple[str, ...]:
        """Remove nameless images (`all_`: named ones too) but those in `keep` (ids), and caches that belong to none. The ids removed."""
        removed: list[str] = []
        kept = keep or set()
        while chosen := [
            image.id for image in self.storage.catalog().images.values() if (all_ or not image.names) and image.id not in kept
        ]:
            progress = [image_id for image_id in chosen if await self._removed(image_id)]
            removed += progress
            kept = kept | (set(chosen) - set(progress))
        await self.collect(kept)
        return tuple(removed)

    async def collect(self, keep: set[str]) -> tuple[str, ...]:
        """Remove erofs files whose image is gone and isn't in `keep` (ids in use), and what killed processes left. The ids removed."""
        await asyncio.to_thread(scratch.sweep, self.home)
        return rootfs.collect(self.home, keep | set(self.storage.catalog().images))

    async def usage(self) -> Usage:
        """Sizes, shared layers counted once."""
        chains = {image.id: self.storage.chain(image) for image in self.storage.catalog().images.values()}
        users: dict[str, int] = {}
        for chain in chains.values():
            for layer in chain:
                users[layer.id] = users.get(layer.id, 0) + 1
        sizes = {layer.id: layer.size for chain in chains.values() for layer in chain}
        unique = {image_id: sum(layer.size for layer in chain if users[layer.id] == 1) for image_id, chain in chains.items()}
        roots = sum(file.stat().st_size for file in (self.home.cache / "bootstrap").glob("*"))
        return Usage(len(chains), sum(sizes.values()), unique, rootfs.size(self.home) + roots)

    # inside

    def _find(self, ref: str) -> Stored:
        """Full ids first, then names as podman looks for them, then prefixes of ids, then the end of a name."""
        catalog = self.storage.catalog()
        bare = ref.removeprefix("sha256:")
        if bare in catalog.images:
            return catalog.images[bare]
        named = not ref.startswith("sha256:") and not reference.is_id(ref)
        found = (_by_name(catalog, ref) if named else None) or _by_prefix(catalog, bare) or (_by_ending(catalog, ref) if named else None)
        if found is None:
            raise _unknown(catalog, ref)
        return found

    def _by_id(self, image_id: str) -> Stored:
        image = self.storage.catalog().images.get(image_id)
        if image is None:
            raise _unknown(self.storage.catalog(), image_id)
        return image

    def _name_of(self, image: Stored, ref: str) -> str:
        """The image's name that `ref` stands for; "" if it is an id."""
        if _looks_like_id(image, ref):
            return ""
        names = {str(candidate) for candidate in reference.parse(ref).candidates()}
        return next((name for name in image.names if name in names), image.names[0] if image.names else "")

    def _pushable(self, image: Stored, ref: str) -> str:
        name = self._name_of(image, ref) or (image.names[0] if image.names else "")
        if not name or name.startswith(f"{reference.LOCAL}/"):
            raise UserError(
                f"push {ref}: {name or 'a nameless image'} belongs to no registry", "say where to: push IMAGE registry/name:tag"
            )
        return name

    def _wanted(self, refs: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """id → the names to save it under."""
        wanted: dict[str, tuple[str, ...]] = {}
        for ref in refs:
            image = self._find(ref)
            name = self._name_of(image, ref)
            wanted[image.id] = tuple(dict.fromkeys((*wanted.get(image.id, ()), *((name,) if name else ()))))
        return wanted

    def _matches(self, view: ImageView, key: str, value: str) -> bool:
        match key:
            case "reference":
                return any(_glob(name, value) for name in view.names)
            case "dangling":
                return (not view.names and not view.digests) == (value.lower() in ("true", "1"))
            case "label":
                name, equals, wanted = value.partition("=")
                labels = view.config.get("Labels") or {}
                assert isinstance(labels, dict)
                return name in labels and (not equals or labels[name] == wanted)
            case "until":
                return view.created_at < float(value)
        other = self.storage.view(self._find(value))
        return view.created_at < other.created_at if key == "before" else view.created_at > other.created_at

    @contextlib.contextmanager
    def _scratch(self) -> Any:
        with scratch.scratch(self.home) as work:
            try:
                yield work
            except OSError as error:
                raise (scratch.disk_full(self.home.cache) if scratch.is_disk_full(error) else error) from error

    async def _received(self, stream: AsyncIterator[bytes], work: Path, what: str) -> Path:
        """The archive on the disk, uncompressed and checked."""
        path = work / "archive.tar"
        if await scratch.spool(stream, path) == 0:
            raise UserError(f"{what}: the archive is empty")
        plain = await asyncio.to_thread(archive.plain, path, what)
        contents = await asyncio.to_thread(archive.check, plain, what)
        self._check_space(contents.size)
        return plain

    def _check_space(self, size: int) -> None:
        root = self.storage.roots[0]
        root.mkdir(parents=True, exist_ok=True)
        scratch.check_space(root, size)

    async def _put(self, work: Path, config: dict[str, Any], layers: list[layout.Blob], name: str) -> ImageView:
        """An image made by hand into the storage."""
        image_id = await asyncio.to_thread(layout.write, work / "image", config, layers)
        await self._copy_in("dir:image", name or f"@{image_id}", work, "store the image")
        return self.storage.view(self._by_id(image_id))

    async def _copy_in(self, source: str, name: str, work: Path, what: str) -> None:
        await self._run(tools.skopeo("copy", "--quiet", source, _stored(name), local=True), work, what)

    async def _tag(self, image_id: str, name: str, work: Path) -> None:
        async with self._names():
            await self._run(["buildah", "tag", image_id, name], work, f"tag {name}")

    async def _buildah(self, *arguments: str, what: str) -> None:
        with self._scratch() as work:
            async with self._names():
                await self._run(["buildah", *arguments], work, what)

    def _names(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Held while names change: buildah reads an image's names, adds one and writes them back, and two at once would lose one."""
        return scratch.locked(self.home.cache / ".names.lock")

    async def _run(self, argv: list[str], work: Path, what: str) -> None:
        try:
            await self.tools.run(argv, work)
        except tools.ToolError as error:
            if "image is in use" in error.reason or "image used by" in error.reason:
                raise ConflictError(f"{what}: {error.reason}", "remove the container that uses it, or use --force") from error
            raise tools.explain(what, error) from error

    async def _removed(self, image_id: str) -> bool:
        """Remove one image; False if something else (a container of podman's) still needs it."""
        try:
            await self._buildah("rmi", image_id, what=f"remove {image_id[:12]}")
        except (ConflictError, PermanentError, TemporaryError):
            return image_id not in self.storage.catalog().images
        return True

    async def _remove_leftovers(self, marker: str, work: Path) -> None:
        """Working containers of a build that crashed or was killed."""
        for container in list(build.leftovers(self.storage.roots[0], marker)):
            with contextlib.suppress(tools.ToolError, TimeoutError):
                async with asyncio.timeout(_CLEANUP):
                    await self.tools.run(["buildah", "rm", container], work)


def _by_name(catalog: Catalog, ref: str) -> Stored | None:
    for candidate in reference.parse(ref).candidates():
        if image_id := catalog.names.get(str(candidate)):
            return catalog.images[image_id]
        if candidate.digest:
            for image in catalog.images.values():
                if candidate.digest in image.digests and any(reference.parse(name).name == candidate.name for name in image.names):
                    return image
    return None


def _by_prefix(catalog: Catalog, ref: str) -> Stored | None:
    if not ref or not set(ref) <= set("0123456789abcdef"):
        return None
    found = [image for image_id, image in catalog.images.items() if image_id.startswith(ref)]
    if len(found) > 1:
        raise UserError(f"image id {ref!r} is ambiguous: {', '.join(image.id[:16] for image in found[:4])}", "write more of it")
    return found[0] if found else None


def _by_ending(catalog: Catalog, ref: str) -> Stored | None:
    """A short name as the end of exactly one image's full name: "web" for registry.example/shop/web."""
    try:
        short = reference.parse(ref).tagged()
    except UserError:
        return None
    found = {image_id for name, image_id in catalog.names.items() if not short.domain and name.endswith(f"/{short}")}
    return catalog.images[found.pop()] if len(found) == 1 else None


def _unknown(catalog: Catalog, ref: str) -> NotFoundError:
    import difflib

    names = {name.removeprefix("localhost/").removeprefix("docker.io/library/"): name for name in catalog.names}
    near = difflib.get_close_matches(ref if ":" in ref else f"{ref}:latest", list(names), 1, 0.7)
    meant = f"did you mean {near[0]}? Else " if near else ""
    return NotFoundError(
        f"no image {ref!r} on this machine", f"{meant}get it: twinhull image pull {ref}, image build, or image bootstrap debian:bookworm"
    )


def _looks_like_id(image: Stored, ref: str) -> bool:
    """Whether it was found by its id. A name made of hexadecimal digits only is still a name."""
    bare = ref.removeprefix("sha256:")
    if not image.id.startswith(bare):
        return False
    return reference.is_id(bare) or not any(str(c) in image.names for c in reference.parse(bare).candidates())


def _glob(name: str, pattern: str) -> bool:
    """A pattern fits the full name, or the name without registry, tag or both."""
    short = name.removeprefix("localhost/").removeprefix("docker.io/library/").removeprefix("docker.io/")
    forms = {form for full in (name, short) for form in (full, full.rpartition(":")[0])}
    return any(fnmatch.fnmatchcase(form, pattern) for form in forms)


def _is_name(text: str) -> bool:
    """A name worth keeping; OCI archives may have a bare tag in its place."""
    try:
        parsed = reference.parse(text)
    except UserError:
        return False
    return bool(parsed.domain or parsed.tag or "/" in parsed.path)


def _for_docker(name: str) -> str:
    """skopeo takes a tag or a digest, not both; the digest decides."""
    parsed = reference.parse(name)
    return str(replace(parsed, tag="")) if parsed.digest else name


def _stored(name: str) -> str:
    return f"containers-storage:{name if name.startswith('@') else _for_docker(name)}"


def _word(value: bool) -> str:
    return "true" if value else "false"


def _blob(path: Path) -> layout.Blob:
    with path.open("rb") as file:
        return layout.Blob(f"sha256:{archive.digest(file)}", path.stat().st_size, path)
