"""The store of secrets: what is on the disk, who may read it, and what is said of it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from twinhull.engine.launch import FILE_LIMIT
from twinhull.engine.secrets import SecretStore
from twinhull.errors import ConflictError, NotFoundError, PermanentError, UserError
from twinhull.spec.app import AppSpec, ServiceSpec
from twinhull.spec.instance import FileSpec, InstanceSpec

WORD = b"hidden\n42\x00\xff"


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path / "secrets")


def test_a_secret_is_kept_replaced_and_removed(store: SecretStore) -> None:
    made = store.create("word", WORD)
    assert store.list({}) == (made,)
    assert made.size == len(WORD)
    assert store.place("shop", "word", None, store=True).read_bytes() == WORD
    with pytest.raises(ConflictError, match="secret word exists") as caught:
        store.create("word", b"other")
    assert caught.value.hint == "twinhull secret create --replace word gives it another content"
    assert store.create("word", b"other", replace=True).id != made.id
    assert store.view("word", {"word": ("shop/web",)}).used_by == ("shop/web",)
    store.remove("word")
    for missing in (lambda: store.remove("word"), lambda: store.view("word", {}), lambda: store.place("shop", "word", None, store=True)):
        with pytest.raises(NotFoundError, match="external secret word doesn't exist") as gone:
            missing()
        assert gone.value.hint == "twinhull secret create word FILE"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "_external", "a/b", "x" * 129])
def test_names_stay_inside(store: SecretStore, name: str) -> None:
    for use in (lambda: store.create(name, WORD), lambda: store.view(name, {}), lambda: store.remove(name)):
        with pytest.raises(UserError):
            use()


@pytest.mark.parametrize("content", [b"", bytes(FILE_LIMIT + 1)])
def test_nothing_and_too_much_are_refused(store: SecretStore, content: bytes) -> None:
    with pytest.raises(UserError):
        store.create("word", content)
    assert store.list({}) == ()


def test_only_the_owner_reads_and_no_name_tells_a_content(store: SecretStore, tmp_path: Path) -> None:
    store.create("word", WORD)
    store.place("shop", "word", None, store=True)
    store.place("shop", "other", "given", store=True)
    for path in (tmp_path / "secrets").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    elsewhere = SecretStore(tmp_path / "other")
    elsewhere.create("word", WORD)
    assert elsewhere.place("shop", "word", None, store=False).name != store.place("shop", "word", None, store=False).name


def test_copies_outlive_what_they_were_made_of_and_go_with_their_application(store: SecretStore) -> None:
    store.create("word", b"one")
    first = store.place("shop", "word", None, store=True)
    store.create("word", b"two", replace=True)
    planned = store.place("shop", "word", None, store=False)
    assert not planned.exists()
    assert planned == store.place("shop", "word", None, store=True) != first
    store.remove("word")
    assert (first.read_bytes(), planned.read_bytes()) == (b"one", b"two")
    store.create("word", b"one")
    assert store.place("shop", "word", None, store=True) == first
    store.forget("shop")
    store.forget("shop")
    assert not first.parent.parent.exists()
    assert [view.name for view in store.list({})] == ["word"]


def test_users_are_the_services_with_a_copy(store: SecretStore, tmp_path: Path) -> None:
    store.create("word", WORD)
    files = (
        FileSpec("/run/secrets/a", str(store.place("shop", "word", None, store=True)), secret=True),
        FileSpec("/run/secrets/b", str(store.place("shop", "word", None, store=True)), secret=True),
        FileSpec("/run/secrets/c", str(store.place("shop", "given", "value", store=True)), secret=True),
        FileSpec("/run/secrets/d", str(tmp_path / "a" / "word" / "file"), secret=True),
    )
    services = {name: ServiceSpec(name, InstanceSpec(image="x", files=files)) for name in ("web", "api")}
    assert store.users([AppSpec("shop", services=services)]) == {"word": ("shop/web", "shop/api")}


def test_a_damaged_file_is_told_without_its_content(store: SecretStore, tmp_path: Path) -> None:
    store.create("word", WORD)
    (tmp_path / "secrets" / "_external" / "word").write_bytes(b"hidden")
    with pytest.raises(PermanentError, match="damaged") as caught:
        store.view("word", {})
    assert "hidden" not in f"{caught.value} {caught.value.hint}"
    assert store.create("word", WORD, replace=True).size == len(WORD)
