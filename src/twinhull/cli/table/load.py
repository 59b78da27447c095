"""The row of `load`."""

from __future__ import annotations

from twinhull.cli.option import JSON, QUIET, Argument, Command, Option


def command(files: tuple[Option, ...]) -> Command:
    """With the options that say which application is meant."""
    return Command(
        "load",
        "send a bounded load of requests to a service of one's own, and measure what it bears",
        "images:load_or_drive",
        (
            *files,
            Option("--rate", "requests per second at the shape's highest, at most 2000", kind="number", metavar="NUMBER", default="50"),
            Option(
                "--shape",
                "how the rate goes",
                metavar="SHAPE",
                choices=("steady", "step", "ramp", "spike", "sine", "day"),
                default="steady",
            ),
            Option("--for", "how long, at most an hour", kind="duration", metavar="TIME", default="1m"),
            Option("--path", "path and query below the service's address", metavar="PATH"),
            Option("--timeout", "when a request without an answer has failed", kind="duration", metavar="TIME", default="30s"),
            Option("--insecure", "don't check the certificate", short="-k", kind="switch"),
            Option("--input", "without a service: images from this archive, as `image load`", short="-i", metavar="FILE", complete="files"),
            QUIET._replace(help="without a service: only the images' names"),
            JSON._replace(help="counts, seconds and a line for each second, for programs"),
        ),
        (Argument("service", "a service of the application, or a URL that leads to one", least=0),),
        (
            ("twinhull load web --rate 400 --shape step --for 2m", "watch it scale: twinhull top"),
            ("twinhull load http://shop.localhost/products --rate 50 --for 30s --json", ""),
        ),
        notes="Requests are due at times of their own, whatever the answers take; an answer's time counts from there. None is asked twice. "
        "Shapes: steady; step (a tenth, all, a tenth); ramp (from nothing up); spike (a tenth, for 5 seconds all); sine (four waves); "
        "day (a night without requests, then up and down). "
        "Exit code 1 if any request failed; ctrl-c shows what there is so far. "
        "Without a service it is Docker's `load`: it reads images, from stdin or --input.",
    )
