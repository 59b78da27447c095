"""buildah's command line for a build, and where in the Containerfile it failed. Pure but for `containerfile` and `leftovers`.

Chroot isolation and the daemon's own network: it needs neither cgroups, a runtime nor raised limits, so that it works in a daemon that
has its own namespaces. Docker's format, because OCI's would lose HEALTHCHECK. A base that is on this machine is taken as it is, without
asking a registry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import NotFoundError, TwinhullError, UserError
from twinhull.image import reference, tools
from twinhull.image.base import BuildSpec

_STEP = re.compile(r"(?:\[\d+/\d+\] )?STEP \d+/\d+: (.*)")
_AT_STEP = re.compile(r'^.*?building at STEP "(?P<step>.*?)": (?P<reason>.*)$', re.DOTALL)
_PARSE_LINE = re.compile(r"parse error (?:on )?line (\d+)|on line (\d+)", re.IGNORECASE)
_UNKNOWN = re.compile(r"[Uu]nknown instruction: \"?(\w+)\"?")
_ESCAPE = re.compile(r"#\s*escape\s*=\s*(\S)\s*", re.IGNORECASE)
_NEEDS_ARGUMENT = {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "USER", "VOLUME", "WORKDIR"}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its first line's number and its text, continuation lines joined."""

    line: int
    text: str


def containerfile(spec: BuildSpec) -> Path:
    """The build's file. Raises UserError for a context or file that isn't there."""
    context = Path(spec.context)
    if not context.is_absolute() or not context.is_dir():
        raise NotFoundError(f"build context {spec.context!r} isn't a folder")
    names = (spec.containerfile,) if spec.containerfile else ("Containerfile", "Dockerfile")
    for name in names:
        if (context / name).is_file():
            return context / name
    raise NotFoundError(f"no {' or '.join(names)} in {spec.context}", "name it with --file")


def check(path: Path) -> None:
    """Refuse what makes buildah 1.28 crash or speak in riddles."""
    found = instructions(path.read_text("utf-8", "replace"))
    if not any(item.text.upper().startswith(("FROM ", "FROM\t")) for item in found):
        raise UserError(f"build {path.name}: no FROM instruction", "a Containerfile begins with FROM image, or FROM scratch")
    for item in found:
        if item.text.upper() in _NEEDS_ARGUMENT:
            raise UserError(f"build {path.name}:{item.line}: {item.text.upper()} needs an argument")


def argv(spec: BuildSpec, file: Path, iid_file: Path, marker: str) -> list[str]:
    """`marker` is kept by buildah with each working container, so that `leftovers` finds them."""
    command = ["buildah", "build", "--isolation=chroot", "--network=host", "--format=docker", "--layers", "--force-rm"]
    command += ["--pull-always" if spec.pull else "--pull=false", "--retry=1", f"--iidfile={iid_file}", f"--cgroup-parent={marker}"]
    command += [f"--file={file}"]
    command += ["--no-cache"] if spec.no_cache else []
    command += [f"--tag={reference.local(tag)}" for tag in spec.tags]
    command += [f"--target={spec.target}"] if spec.target else []
    command += [f"--build-arg={key}={value}" for key, value in spec.args.items()]
    command += [f"--secret=id={key},src={path}" for key, path in spec.secrets.items()]
    command += [f"--label={key}={value}" for key, value in spec.labels.items()]
    return [*command, spec.context]


def failure(error: tools.ToolError, file: Path) -> TwinhullError:
    """What went wrong, with the line of the Containerfile where that can be told."""
    reason = next((line for line in reversed(error.lines) if line.startswith("Error: ")), f"Error: {error.reason}").removeprefix("Error: ")
    found = instructions(file.read_text("utf-8", "replace"))
    step, reason = _step(reason, error.lines)
    line = _line(step, reason, found)
    where = f"build {file.name}:{line}" if line else f"build {file.name}"
    text = f"{where}: {step}: {_plain(reason)}" if step else f"{where}: {_plain(reason)}"
    explained = tools.explain(where, tools.ToolError("buildah", error.status, [reason]))
    if step.upper().startswith("FROM") or "no space left" in reason:
        detail = explained.message.removeprefix(f"{where}: ")
        return type(explained)(f"{where}: {step}: {detail}", explained.hint)
    return UserError(text)


def leftovers(storage_root: Path, marker: str) -> Iterator[str]:
    """Ids of the working containers that a build has left behind."""
    for file in storage_root.glob("*-containers/*/userdata/buildah.json"):
        try:
            state = json.loads(file.read_bytes())
        except (OSError, ValueError):
            continue
        if (state.get("CommonBuildOpts") or {}).get("CgroupParent") == marker:
            yield file.parent.parent.name


def instructions(text: str) -> list[Instruction]:
    """A Containerfile's instructions with their line numbers."""
    lines = text.splitlines()
    escape = _escape(lines)
    found: list[Instruction] = []
    start, parts = 0, list[str]()
    for number, line in enumerate(lines, 1):
        bare = line.strip()
        if bare.startswith("#") or not bare:  # both may stand between continued lines
            continue
        start = start if parts else number
        more = bare.endswith(escape)
        parts.append(bare[:-1].rstrip() if more else bare)
        if not more:
            found.append(Instruction(start, " ".join(part for part in parts if part)))
            parts = []
    return found + ([Instruction(start, " ".join(part for part in parts if part))] if parts else [])


def _escape(lines: list[str]) -> str:
    """The directive that may stand in the first comments."""
    for line in lines:
        if not line.startswith("#"):
            break
        if match := _ESCAPE.fullmatch(line):
            return match[1]
    return "\\"


def _step(reason: str, said: tuple[str, ...]) -> tuple[str, str]:
    """The instruction that failed and the reason alone. A message about a base names no step: it is the last one begun."""
    begun = [match[1] for line in said if (match := _STEP.fullmatch(line))]
    if match := _AT_STEP.match(reason):
        same = begun and _words(begun[-1])[:1] == _words(match["step"])[:1]
        return (begun[-1] if same else match["step"]), match["reason"]
    return (begun[-1] if begun and reason.startswith(("creating build container", "initializing source")) else ""), reason


def _line(step: str, reason: str, found: list[Instruction]) -> int:
    if match := _PARSE_LINE.search(reason):
        return int(match[1] or match[2])
    if match := _UNKNOWN.search(reason):
        return next((item.line for item in found if item.text.split()[0].upper() == match[1].upper()), 0)
    return next((item.line for item in found if step and _words(item.text) == _words(step)), 0)


def _words(text: str) -> list[str]:
    return text.split()


def _plain(reason: str) -> str:
    """Without the dumps of buildah's own structures."""
    return reason.partition(" &imagebuilder.Step")[0].removeprefix("Build error: ")
