"""How long a compose file takes from its text to what the engine is asked for.

    .venv/bin/python -m bench.compose [--sizes 10,100,500,2000] [--rounds 9]

Each service has an image, environment with variables, a port, two networks, two mounts, a health check, limits and a dependency: 20 lines.
Prints the median and the longest round in wall and CPU time, and the whole of `twinhull config -q`, the interpreter's start included.
Promised: 500 services in less than a second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from twinhull.compose import load
from twinhull.sys.proc import run_blocking

SERVICE = """  s{0}:
    image: shop/service{0}:${{TAG:-latest}}
    environment:
      NUMBER: "{0}"
      LEVEL: ${{LEVEL:-info}}
    ports: ["{1}:80"]
    networks: [front, back]
    volumes:
      - data:/data
      - ./settings:/settings:ro
    healthcheck:
      test: [CMD, /bin/health]
      interval: 5s
      retries: 3
    deploy:
      replicas: 2
      resources:
        limits: {{cpus: "0.5", memory: 128M}}
      update_config: {{order: stop-first}}
    restart: unless-stopped
    depends_on: {2}
"""


def text(count: int) -> str:
    """A file of so many services, each depending on the one before."""
    services = "".join(SERVICE.format(number, 10_000 + number, f"[s{number - 1}]" if number else "[]") for number in range(count))
    return f"name: bench\nservices:\n{services}networks: {{front: , back: }}\nvolumes: {{data: }}\n"


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,100,500,2000")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{'services':>8} {'n':>3} {'median ms':>10} {'longest ms':>11} {'CPU ms':>7} {'`config -q` ms':>15}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "compose.yaml")
        for size in (int(word) for word in options.sizes.split(",")):
            file.write_text(text(size))
            wall, processor, command = zip(*(_once(file, size) for _ in range(options.rounds)), strict=True)
            medians = statistics.median(wall), max(wall), statistics.median(processor), statistics.median(command)
            print(f"{size:>8} {options.rounds:>3} {medians[0]:>10.0f} {medians[1]:>11.0f} {medians[2]:>7.0f} {medians[3]:>15.0f}")
    return 0


def _once(file: Path, size: int) -> tuple[float, float, float]:
    """Milliseconds: wall and CPU of one load, wall of one command."""
    began, used = time.perf_counter(), time.process_time()
    spec = load([file], environment={})
    taken = (time.perf_counter() - began, time.process_time() - used)
    assert len(spec.services) == size
    began = time.perf_counter()
    run_blocking([sys.executable, "-m", "twinhull.cli", "config", "-q", "-f", str(file)])
    return taken[0] * 1e3, taken[1] * 1e3, (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    sys.exit(main())
