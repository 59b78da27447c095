"""Every malformed file gives one error with the file and the line, never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.compose.corpus import MALFORMED, SERVICE, service

from twinhull.compose import ComposeError, load, schema
from twinhull.errors import UserError

BAD = ("{zz: [[1]]}", "[[1]]")
"""Values that no key of a service takes, but those that take anything."""
ANYTHING = {"storage_opt"}


def refuse(text: str, folder: Path) -> ComposeError:
    """The error that a file gives."""
    file = folder / "compose.yaml"
    file.write_text(text)
    with pytest.raises(ComposeError) as caught:
        load([file], project="app", environment={})
    assert isinstance(caught.value, UserError)
    return caught.value


@pytest.mark.parametrize(("text", "line", "said"), MALFORMED, ids=range(len(MALFORMED)))
def test_the_line_and_what_is_wrong(text: str, line: int, said: str, tmp_path: Path) -> None:
    error = refuse(text, tmp_path)
    assert said in error.message
    if line > 1:
        assert error.message.startswith(f"{tmp_path}/compose.yaml:{line}: "), error.message


def _keys() -> list[str]:
    found: set[str] = set()
    for name in ("service", "container_spec", "workload_spec"):
        found |= set(schema.document()["$defs"][name]["properties"])
    return sorted(key for key in found if not key.startswith("x-"))


@pytest.mark.parametrize("key", _keys())
def test_every_key_of_a_service_is_checked(key: str, tmp_path: Path) -> None:
    """A wrong type, and a slip of the finger."""
    for bad in () if key in ANYTHING else BAD:
        text = f"services:\n  web:\n    {key}: {bad}\n"
        assert (
            refuse(text, tmp_path).message.startswith(f"{tmp_path}/compose.yaml:3: services.web.{key}")
            or key in refuse(text, tmp_path).message
        )
    slip = key[:-1] + "zz"
    error = refuse(service(f"{slip}: 1"), tmp_path)
    assert error.message.startswith(f"{tmp_path}/compose.yaml:4: unknown key '{slip}' in services.web")


def test_there_are_enough() -> None:
    assert len(MALFORMED) + 3 * len(_keys()) >= 200
    assert len(MALFORMED) >= 200


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_bytes(SERVICE.encode() + b"    command: \xff\xfe\n")
    with pytest.raises(ComposeError, match=r"compose\.yaml:4: not text in UTF-8"):
        load([file], environment={})


def test_control_characters(tmp_path: Path) -> None:
    assert "compose.yaml" in refuse(service('command: "a\x00b"'), tmp_path).message
    assert "NUL" in refuse(service(r'command: ["a\0b"]'), tmp_path).message


def test_a_file_too_large(tmp_path: Path) -> None:
    assert "larger than 8 MiB" in refuse("#" * (8 * 1024 * 1024 + 10), tmp_path).message


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match="read "):
        load([tmp_path / name], environment={})
