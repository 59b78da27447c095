"""Rows of comparing hulls."""

from __future__ import annotations

from twinhull.cli.option import JSON, QUIET, Argument, Command, Option
from twinhull.cli.table.compose import FILES

_FILES = tuple(option for option in FILES if option.flag != "--profile")
"""Which application a service is of. `--profile` has another meaning here; COMPOSE_PROFILES works, and a named service's are active."""

COMMANDS = (
    Command(
        "compare",
        "measure an image or a service in different hulls on this machine, and say what follows",
        "compare:compare",
        (
            Option("--runtimes", "hulls to compare, the first is the baseline", metavar="LIST", default="container,vm"),
            Option("--profile", "quick (3 minutes) or full (30)", metavar="PROFILE", choices=("quick", "full"), default="quick"),
            Option("--against", "other engines beside them: docker, podman, or NAME=COMMAND", metavar="NAME", repeat=True),
            Option("--workload", "your application, its load and its ready check", metavar="FILE", complete="files"),
            Option("--output", "write a report: .html, .json, .csv, .md, .png", short="-o", metavar="FILE", repeat=True, complete="files"),
            Option("--only", "only this measure", metavar="MEASURE", repeat=True),
            Option("--rounds", "samples of each figure, instead of the profile's", kind="integer", metavar="N"),
            Option("--seed", "the order of the turns; printed and drawn anew if left out", kind="integer", metavar="N"),
            Option("--resume", "go on with a run (or `last`); a complete one is only reported again", metavar="RUN"),
            Option("--tools", "the image with the programs that measure", metavar="IMAGE"),
            QUIET._replace(help="no progress and no summary"),
            *_FILES,
        ),
        (
            Argument(
                "image", "an image, a service of the compose file, or an instance whose image and command count", least=0, complete="images"
            ),
        ),
        (
            ("twinhull compare shop/web -o report.html", ""),
            ("twinhull compare shop/web --profile full --against docker,podman -o report.html -o report.json", ""),
            ("twinhull compare shop/web --only start --rounds 30 --seed 7", "one figure again"),
            ("twinhull compare shop/web --workload load.yaml -o report.md", "your own load: docs/compare.md"),
            ("twinhull compare -f shop.yaml api -o report.html", "a service: copies of it, under requests for its page"),
            ("twinhull compare --resume last -o report.html", "after ctrl-c"),
        ),
        notes="Measures: workload, start, cold, memory, density, cpu, ram, system, disk, network, jitter, image, isolation, escape, reach.",
    ),
    Command(
        "advise",
        "recommend a hull for an instance or a service from the last comparison",
        "compare:advise",
        (
            Option("--trust", "whose code it runs", metavar="WHOSE", choices=("own", "others"), default="own"),
            Option("--starts", "how often it is started, per hour", kind="number", metavar="N"),
            Option("--from", "a run instead of the last one", metavar="RUN"),
            JSON,
            *_FILES,
        ),
        (Argument("instance", "an instance, or a service of the compose file", complete="instances"),),
        (("twinhull advise web", ""), ("twinhull advise plugin --trust others --starts 600", "")),
    ),
)
