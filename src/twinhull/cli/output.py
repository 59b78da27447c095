"""How a list or one object is printed: --format table|json|TEMPLATE, --json, -q."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from twinhull.cli import columns as columns_module
from twinhull.cli.parse import usage
from twinhull.cli.style import harmless, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twinhull.cli.columns import Column
    from twinhull.cli.parse import Arguments
    from twinhull.cli.template import Template


class Sheet(NamedTuple):
    """What there is to print of one kind of object: its columns, and its id for -q."""

    columns: tuple[Column, ...]
    ident: Callable[[Any], str]

    def shown(self) -> tuple[Column, ...]:
        """The default table's columns."""
        return tuple(column for column in self.columns if column.shown)


def rows(args: Arguments, sheet: Sheet, objects: Sequence[Any]) -> int:
    """Print a list."""
    form = chosen(args)
    if args.switch("quiet") and form != "json":
        lines = [sheet.ident(item) for item in objects]
    elif form == "json":
        lines = [pretty(list(objects))]
    elif form == "table":
        lines = columns_module.table(sheet.shown(), objects)
    elif form.startswith("table "):
        lines = _chosen_table(sheet, form.removeprefix("table "), objects)
    else:
        template = compiled(form)
        lines = [template.render(Fields(sheet, item)) for item in objects]
    write("".join(f"{line}\n" for line in lines))
    return 0


def objects(args: Arguments, found: list[Any]) -> int:
    """Print inspected objects: a JSON list, or a template's line for each."""
    form = chosen(args)
    if form in ("json", "table"):
        write(pretty(found) + "\n")
    else:
        template = compiled(form)
        write("".join(template.render(item) + "\n" for item in found))
    return 0


def chosen(args: Arguments) -> str:
    """json, table, or a template."""
    form = args.text("format")
    if args.switch("json"):
        if form not in ("", "json"):
            raise usage(args.command, "--json and --format exclude each other")
        return "json"
    if form and form not in ("json", "table") and "{{" not in form:
        raise usage(
            args.command, f"--format {form!r}: use table, json, or a template such as '{{{{.ID}}}}'", "see: twinhull help templates"
        )
    return form or "table"


def compiled(form: str) -> Template:
    """A template ready to render. Raises TemplateError."""
    from twinhull.cli import template

    return template.compile(form)


class Fields(dict[str, Any]):
    """An object as templates see it: first the columns by their names (made when asked for), then its own fields.

    As a JSON value it is the object itself, so that {{json .}} is exact.
    """

    def __init__(self, sheet: Sheet, item: Any) -> None:
        super().__init__(item if isinstance(item, dict) else {})
        self._columns = {column.name.lower(): column for column in sheet.columns}
        self._item = item

    def __contains__(self, name: object) -> bool:
        return str(name).lower() in self._columns or super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        column = self._columns.get(name.lower())
        return column.value(self._item) if column else super().__getitem__(name)

    def __iter__(self) -> Any:
        """Column names first, so that an unknown field's hint lists them; json.dumps goes by items() and isn't touched."""
        return iter(
            [column.name for column in self._columns.values()] + [key for key in super().__iter__() if key.lower() not in self._columns]
        )


def _chosen_table(sheet: Sheet, form: str, objects: Sequence[Any]) -> list[str]:
    """`table {{.A}}\\t{{.B}}`: headers from the fields, cells between tabs."""
    template = compiled(form)
    headers = {column.name.lower(): column.header for column in sheet.columns}
    names = [name.rpartition(".")[2] for name in template.fields()]
    cells = [[headers.get(name.lower(), name.upper()) for name in names]]
    cells += [[printable(cell) for cell in template.render(Fields(sheet, item)).split("\t")] for item in objects]
    return columns_module.aligned(cells)


def pretty(value: Any) -> str:
    """JSON for people and programs."""
    return harmless(json.dumps(value, indent=2, ensure_ascii=False))


def write(text: str) -> None:
    """To stdout at once. Undecodable bytes (surrogates) come out as the bytes they were."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
        return
    buffer.write(text.encode("utf-8", "surrogateescape"))
    buffer.flush()
