"""Archives from outside: what is refused, and that nothing but a UserError ever comes of a bad one."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.images.archive import Layer, docker_archive, layer

from twinhull.errors import PermanentError, TwinhullError, UnsupportedError, UserError
from twinhull.image import archive, scratch


def saved(tmp_path: Path, fill: Any) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(layer(fill))
    return path


def one(name: str, **fields: Any) -> Any:
    return lambda new: new.add(name, **fields)


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (one("../evil"), "points outside"),
        (one("a/../../evil"), "points outside"),
        (one("/../evil"), "points outside"),
        (one("link", type=tarfile.LNKTYPE, linkname="../../etc/shadow"), "points outside"),
        (one("link", type=tarfile.LNKTYPE, linkname="/etc/shadow"), "isn't in the archive"),
        (one("odd", type=b"Z"), "unknown type"),
        (one("uid", uid=2**32), "out of range"),
        (one("uid", uid=-1), "out of range"),
    ],
)
def test_refused(tmp_path: Path, fill: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        archive.check(saved(tmp_path, fill), "import")


def test_what_images_may_contain_passes(tmp_path: Path) -> None:
    def fill(new: Layer) -> None:
        new.directory("./")
        new.add("/absolute", b"x" * 5000)
        new.add("a/../b", b"")
        new.symlink("etc", "/etc")
        new.symlink("up", "../../../..")
        new.link("hard", "absolute")
        new.add("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        new.add("fifo", type=tarfile.FIFOTYPE)

    assert archive.check(saved(tmp_path, fill), "import") == archive.Contents(8, 8192)


@pytest.mark.parametrize("cut", [1, 100, 511, 512, 513, 1000, 1024, 1500, 1536])
def test_cut_short(tmp_path: Path, cut: int) -> None:
    path = saved(tmp_path, one("file", content=bytes(range(256)) * 4))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError):
        archive.check(path, "import")


def test_damaged_in_the_middle(tmp_path: Path) -> None:
    path = saved(tmp_path, lambda new: [new.add(name, b"x" * 600) for name in "abc"])
    data = bytearray(path.read_bytes())
    data[1536 + 20] ^= 0xFF  # the second header
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged at byte 1536"):
        archive.check(path, "import")


def test_a_header_that_claims_gigabytes_isnt_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 1 << 33
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 33) + 1536)
    with pytest.raises(UserError, match="claims 8589934592 bytes"):
        archive.check(path, "import")


def test_a_huge_file_that_isnt_there_is_counted(tmp_path: Path) -> None:
    """The space is checked against this before anything is unpacked: a sparse bomb gets no further."""
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        member = tarfile.TarInfo("bomb")
        member.size = 1 << 40
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate((1 << 40) + 512 + 1024)
    contents = archive.check(path, "import")
    assert contents.size == 1 << 40
    with pytest.raises(PermanentError, match="no space left"):
        scratch.check_space(tmp_path, contents.size)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_plain(tmp_path: Path, pack: Any) -> None:
    content = layer(one("file", content=b"data"))
    path = tmp_path / "a"
    path.write_bytes(pack(content))
    plain = archive.plain(path, "load")
    assert plain.read_bytes() == content
    assert list(tmp_path.iterdir()) == [plain]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_and_cut_short(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "a"
    path.write_bytes(pack(random.Random(1).randbytes(100_000))[:-5000])
    with pytest.raises(UserError, match="damaged"):
        archive.plain(path, "load")


def test_zstd_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x28\xb5\x2f\xfdxxxx")
    with pytest.raises(UnsupportedError, match="zstd"):
        archive.plain(tmp_path / "a", "load")


def repacked(path: Path, change: Any) -> None:
    """Rewrite a docker archive with its members changed."""
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def drop(suffix: str) -> Any:
    def change(members: dict[str, bytes]) -> None:
        for name in [name for name in members if name.endswith(suffix)]:
            del members[name]

    return change


def put(name: str, data: bytes) -> Any:
    return lambda members: members.update({name: data})


def manifest(**fields: Any) -> Any:
    def change(members: dict[str, bytes]) -> None:
        members["manifest.json"] = json.dumps([json.loads(members["manifest.json"])[0] | fields]).encode()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("manifest.json"), "neither a docker nor an OCI archive"),
        (put("manifest.json", b"{"), "is no JSON"),
        (put("manifest.json", b"[]"), "lists no images"),
        (put("manifest.json", b"[3]"), "missing"),
        (put("manifest.json", b"[{}]"), "missing"),
        (manifest(Config="../../etc/passwd"), "missing"),
        (manifest(Layers=["nosuch.tar"]), "nosuch.tar' is missing"),
        (manifest(Config="manifest.json"), "configuration is damaged"),
    ],
)
def test_bad_docker_archives(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "a.tar"
    docker_archive(path, ["x:y"], [layer(one("f"))], {})
    repacked(path, change)
    with pytest.raises(UserError, match=said):
        archive.images(path, "load")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (b"[]", "lists no images"),
        (b'{"manifests": []}', "lists no images"),
        (b'{"manifests": [{"digest": "sha256:../../etc/passwd"}]}', "isn't a SHA-256 digest"),
        (b'{"manifests": [{"digest": "md5:00"}]}', "isn't a SHA-256 digest"),
        (b'{"manifests": [{"digest": "sha256:%s"}]}' % (b"a" * 64), "is missing"),
    ],
)
def test_bad_oci_archives(tmp_path: Path, index: bytes, said: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(layer(lambda new: [new.add("oci-layout", b"{}"), new.add("index.json", index)]))
    with pytest.raises(UserError, match=said):
        archive.images(path, "load")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_anywhere_is_a_user_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.tar"
    docker_archive(path, ["x:y"], [layer(one("f", content=b"x"))], {"Cmd": ["x"]})
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        archive.check(path, "load")
        archive.images(path, "load")
    except TwinhullError as error:
        assert isinstance(error, UserError)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000))
def test_noise_is_a_user_error(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "a").write_bytes(noise)
    with pytest.raises(UserError):
        archive.check(archive.plain(tmp_path / "a", "import"), "import")
        archive.images(tmp_path / "a", "import")
