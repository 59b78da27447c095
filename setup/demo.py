"""`make demo`: one image, once as a container and once as a VM, and what that costs here; then a small shop, one of whose services is a VM.

Everything is made in a home of its own (`TWINHULL_HOME`), so that `make demo-clean` can take all of it away again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
PROGRAM = str(CHECKOUT / ".venv" / "bin" / "twinhull")
HOME = Path(os.environ.get("TWINHULL_DEMO_HOME", "/var/lib/twinhull-demo"))
ENVIRONMENT = os.environ | {"TWINHULL_HOME": str(HOME)}
IMAGE = "localhost/debian-python:bookworm"
CACHED = CHECKOUT / "build" / "test-cache" / "debian-python.tar"
RUNTIMES = ("container", "vm")
PAGE = """mkdir -p /srv/www
echo "hello from $(hostname), kernel $(uname -r)" >/srv/www/index.html
exec python3 -m http.server 8000 -d /srv/www"""
SHOP = CHECKOUT / "examples" / "shop"
BASE = ("image", "bootstrap", "debian:bookworm", "--package", "ca-certificates", "--package", "curl", "-t", "localhost/debian:bookworm")
"""What the shop's images are built on."""
ORDERS = 3
BURST = ("--path", "/static/style.css", "--rate", "120", "--shape", "step", "--for", "45s")
"""Of `twinhull load`: five instances of web, and little for the machine to compute."""
PATIENCE = 120.0
"""Seconds until the page must be there; an emulated VM boots in about five."""


@dataclass(frozen=True)
class Row:
    """What one runtime costs."""

    runtime: str
    kernel: str
    start: float
    memory: int


def main() -> int:
    """Show it, or with --clean remove it."""
    if os.geteuid() != 0:
        print("demo: needs root: sudo make demo", file=sys.stderr)
        return 1
    return clean() if "--clean" in sys.argv[1:] else show()


def show() -> int:
    """The whole demonstration; 0 if both hulls served the page, and the shop shipped what was ordered and stood a burst."""
    _title("The daemon, with all of its things in " + str(HOME))
    port = _gateway_port()
    if _ask("daemon", "status", check=False).returncode != 0:
        _type("daemon", "--detach")
    _prepare_image()
    _title("Once: try KVM, and make the image's read-only root for VMs")
    _type("run", "--rm", "--runtime", "vm", IMAGE, "true")
    rows = [_start(runtime) for runtime in RUNTIMES]
    _title("Both are instances like any other")
    _type("ps")
    for runtime in RUNTIMES:
        _type("logs", "--tail", "1", f"demo-{runtime}")
        _type("exec", f"demo-{runtime}", "uname", "-r")
    _print_table(rows)
    _show_shop(port)
    _print_next(port)
    return 0


def clean() -> int:
    """End the demo's daemon with everything in it, and remove its home."""
    if not HOME.exists():
        print("demo: nothing is left of it")
        return 0
    if _ask("daemon", "status", check=False).returncode == 0:
        for name in _ask("ls", "-q").stdout.split():
            _ask("down", "-p", name, "-v")
        for kind, arguments in (("ps", ("ps", "-aq")), ("volume", ("volume", "ls", "-q"))):
            if names := _ask(*arguments).stdout.split():
                _ask(*(("rm", "-f", "-v") if kind == "ps" else ("volume", "rm", "-f")), *names)
        _ask("daemon", "stop", "--all")
    _wait_end()
    shutil.rmtree(HOME)
    print(f"demo: {HOME} is removed")
    return 0


def _wait_end() -> None:
    """Until the daemon has gone, so that nothing is written or mounted any more."""
    deadline = time.monotonic() + 30
    while _ask("daemon", "status", check=False).returncode == 0:
        if time.monotonic() > deadline:
            raise SystemExit("demo: the daemon doesn't end")
        time.sleep(0.1)


def _prepare_image() -> None:
    """Debian with Python: from this checkout's cache, else made from Debian's archive (about a minute, once)."""
    if _ask("image", "inspect", IMAGE, check=False).returncode == 0:
        return
    _title("An image: Debian with Python")
    if CACHED.exists():
        _type("image", "load", "-i", str(CACHED))
    else:
        _type("image", "bootstrap", "debian:bookworm", "--package", "python3", "-t", IMAGE)


def _start(runtime: str) -> Row:
    name = f"demo-{runtime}"
    _title(f"The image as a {'VM' if runtime == 'vm' else runtime}")
    _ask("rm", "-f", "-v", name, check=False)
    began = time.monotonic()
    _type("run", "-d", "--name", name, "--hostname", name, "--runtime", runtime, "-p", "8000", IMAGE, "sh", "-c", PAGE)
    port = _ask("port", name, "8000").stdout.split(":")[-1].strip()
    text = _fetch(f"http://127.0.0.1:{port}/", name)
    took = time.monotonic() - began
    print(f"$ curl http://127.0.0.1:{port}/\n{text}", end="")
    kernel = _ask("exec", name, "uname", "-r").stdout.strip()
    return Row(runtime, kernel, took, _memory(name))


def _fetch(url: str, name: str) -> str:
    """The page, once it is there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError as error:
            if time.monotonic() > deadline:
                sys.stdout.write(_ask("logs", name, check=False).stdout)
                raise SystemExit(f"demo: {name} serves no page within {PATIENCE:.0f} s: {error}") from None
            time.sleep(0.02)


def _memory(name: str) -> int:
    """Bytes of the machine's memory."""
    found: Any = json.loads(_ask("stats", "--no-stream", "--format", "json", name).stdout)
    row = found[0] if isinstance(found, list) else found
    return int(row.get("host_memory") or row["memory"])


def _print_table(rows: list[Row]) -> None:
    _title("What the choice costs on this machine")
    print(f"{'runtime':<11}{'kernel':<28}{'run → HTTP 200':>16}{'memory':>12}")
    for row in rows:
        print(f"{row.runtime:<11}{row.kernel:<28}{row.start:>14.2f} s{row.memory / 1e6:>9.0f} MB")
    accelerator = json.loads(_ask("inspect", "demo-vm").stdout)
    view = accelerator[0] if isinstance(accelerator, list) else accelerator
    if view["accelerator"] == "tcg":
        print("(This machine has no usable KVM, so the VM is emulated.)")


# the shop


def _gateway_port() -> int:
    """The port of this machine that the demo's gateway listens on: chosen once, and written into its configuration."""
    file = HOME / "config" / "config.toml"
    if not file.exists():
        with contextlib.closing(socket.create_server(("127.0.0.1", 8080 if _is_free(8080) else 0))) as server:
            port = server.getsockname()[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'[gateway]\nhttp = "127.0.0.1:{port}"\nhttps = ""\n')
    return int(file.read_text().partition("127.0.0.1:")[2].partition('"')[0])


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), contextlib.closing(socket.create_server(("127.0.0.1", port))):
        return True
    return False


def _show_shop(port: int) -> None:
    """An application from one compose file: built, brought up, bought from, and a service moved into a VM while people shop."""
    _title("An application: examples/shop, from one compose file")
    _prepare_shop()
    began = time.monotonic()
    shop, bank = ("-f", str(SHOP / "compose.yaml")), ("-f", str(SHOP / "provider" / "compose.yaml"))
    _type("up", "--wait", *bank)
    _type("up", "--wait", *shop)
    print(f"(from nothing to everything healthy in {time.monotonic() - began:.0f} s)")
    _title(f"{ORDERS} customers buy something")
    for number in range(1, ORDERS + 1):
        _buy(port, number)
    _title("A service moves into a VM, and the shop stays open")
    _type("isolate", "cart", "vm", *shop)
    _buy(port, ORDERS + 1)
    _type("compose", "ps", *shop)
    _show_burst(shop)


def _show_burst(shop: tuple[str, str]) -> None:
    """Many visitors at once, and how the number of web's instances follows: a line a second, `#` ready, `.` on its way."""
    _title("A burst of visitors: web follows")
    words = ("load", "web", *shop, *BURST)
    print(f"$ twinhull {' '.join(words)}", flush=True)
    began, last = time.monotonic(), ""
    with subprocess.Popen([PROGRAM, *words], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as load:
        while load.poll() is None:
            view = json.loads(_ask("scale", "explain", "web", *shop, "--json").stdout)
            ready, desired = view["ready"], view["desired"]
            bar = f"{'#' * ready}{'.' * (desired - ready)}"
            why, last = ("" if view["reason"] == last else view["reason"]), view["reason"]
            print(f"{time.monotonic() - began:5.0f} s  {ready:2} of {desired:2}  {bar:20}  {why}", flush=True)
            time.sleep(1)
        print(load.stdout.read() if load.stdout else "", end="")
    if load.returncode != 0:
        raise SystemExit("demo: requests of the burst failed")
    _type("scale", "explain", "web", *shop)


def _prepare_shop() -> None:
    """The shop's images: from this checkout's cache, else built from Debian's archive (two minutes, once)."""
    if all(_ask("image", "inspect", f"localhost/shop/{name}:1", check=False).returncode == 0 for name in ("web", "provider")):
        return
    _type(*BASE)
    cached = sorted((CHECKOUT / "build" / "test-cache").glob("shop-*.tar"))
    if cached:
        _type("image", "load", "-i", str(cached[-1]))
    for file in [SHOP / "provider" / "compose.yaml", *([] if cached else [SHOP / "compose.yaml"])]:
        _type("compose", "build", "-f", str(file))


def _buy(port: int, number: int) -> None:
    """Fill a cart, order, and see it shipped."""
    cart, began = str(uuid.uuid4()), time.monotonic()
    _call(port, "PUT", f"/carts/{cart}/items/mug", {"quantity": number})
    buyer = {"name": f"Customer {number}", "address": "1 Quay Street", "card": "tok_pays", "cart": cart}
    order = _call(port, "POST", "/orders", buyer, cart)
    status, deadline = order["status"], began + PATIENCE
    while status != "shipped":
        if time.monotonic() > deadline:
            raise SystemExit(f"demo: order {order['id']} isn't shipped within {PATIENCE:.0f} s: it is {status}")
        time.sleep(0.2)
        status = _call(port, "GET", f"/orders/{order['id']}?cart={cart}")["status"]
    print(f"order {order['id']}: {order['total'] / 100:.2f}, shipped after {time.monotonic() - began:.1f} s")


def _call(port: int, method: str, path: str, body: Any = None, key: str = "") -> Any:
    headers = {"Host": "api.shop.localhost", "Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def _print_next(port: int) -> None:
    _title(f"Look at http://shop.localhost:{port} (and its page \u201cBehind the counter\u201d). Next, type")
    print(f"""\
export TWINHULL_HOME={HOME} PATH=$PATH:{CHECKOUT}/.venv/bin
twinhull run --rm -it --runtime vm {IMAGE} bash     # a shell on a kernel of its own
twinhull stats                                      # everything, live
cd {SHOP}
twinhull isolate payment container                  # back into a container, without a lost request
twinhull scale web=10
twinhull compose logs --follow orders shipping
make demo-clean                                     # and nothing is left of it""")


def _title(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def _type(*words: str) -> None:
    """Show the command and run it; its failure is the demo's."""
    print("$ twinhull " + " ".join(_quoted(word) for word in words), flush=True)
    done = subprocess.run([PROGRAM, *words], env=ENVIRONMENT, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(done.returncode)


def _quoted(word: str) -> str:
    return f"'{word}'" if set(word) & set(' ;"$&|\n') else word


def _ask(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The same without showing it."""
    done = subprocess.run([PROGRAM, *words], env=ENVIRONMENT, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if check and done.returncode != 0:
        raise SystemExit(f"demo: twinhull {' '.join(words)}: {done.stderr.strip()}")
    return done


if __name__ == "__main__":
    sys.exit(main())
