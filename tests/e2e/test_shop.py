"""examples/shop, as its README tells: bought from with JavaScript and without, in good times and bad; then down, with nothing left."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.shop import API, BANK, PAGES, PORT, Answer, Bank, ask, browser
from tests.harness import CommandError, Daemon
from tests.images import shop as images

from twinhull.client import Client
from twinhull.engine.apps.base import MemberView

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root"), pytest.mark.timeout(900)]
FILE = ("-f", str(images.SHOP / "compose.yaml"))
BUYER = {"name": "Ada", "address": "1 Quay Street", "card": "tok_pays"}


class Shop:
    """The running application."""

    def __init__(self, daemon: Daemon, bank: Bank) -> None:
        self.daemon = daemon
        self.bank = bank
        self.env = {"PROVIDER_URL": bank.url, "PACKING": "500ms"}

    def cli(self, verb: str, *words: str, **options: Any) -> str:
        """A command on the application."""
        return self.daemon.cli(*verb.split(), *FILE, *words, env=self.env, timeout=300, **options).text

    def up(self) -> None:
        """Until everything is healthy; what a failure leaves to read is shown."""
        try:
            self.cli("up", "--wait")
        except CommandError:
            sys.stderr.write(self.cli("compose logs", "--tail", "5", check=False) + self.daemon.log_tail())
            raise

    def members(self) -> dict[str, tuple[MemberView, ...]]:
        """The instances of each service."""
        with Client(str(self.daemon.home.socket)) as client:
            return {service.name: service.members for service in client.app("shop").services}

    def ask(self, path: str, **options: Any) -> Answer:
        """The gateway."""
        return ask(self.daemon.net, path, **options)

    def fill_cart(self) -> str:
        """A new cart with two mugs in it."""
        cart = str(uuid.uuid4())
        assert self.ask(f"/carts/{cart}/items/mug", method="PUT", body={"quantity": 2}).status == 200
        return cart

    def order(self, cart: str, key: str, **changes: str) -> Answer:
        """POST /orders."""
        return self.ask("/orders", body={**BUYER, "cart": cart, **changes}, key=key)


@pytest.fixture(scope="module")
def shop(daemon: Daemon) -> Iterator[Shop]:
    """Up; after it, down, and nothing is left of it, but everything of others."""
    daemon.cli("network", "create", "others")
    daemon.cli("image", "load", "-i", str(images.archive()), timeout=300)
    bank = Bank(daemon.net)
    opened = Shop(daemon, bank)
    try:
        opened.up()
        yield opened
        opened.cli("down", "-v")
        for kind, name in (("ps", "Names"), ("volume ls", "Name"), ("network ls", "Name")):
            left = daemon.cli(*kind.split(), *(["-a"] if kind == "ps" else []), "--format", f"{{{{.{name}}}}}").lines
            assert not [line for line in left if line.startswith("shop")]
        daemon.cli("network", "rm", "others")
    finally:
        bank.close()


def wait_for(what: str, holds: Callable[[], object], patience: float = 60.0) -> None:
    """Ask until it holds."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} s"
        time.sleep(0.1)


def test_hulls(shop: Shop) -> None:
    """Everything is healthy, each in its hull; only payment has a way out."""
    services = shop.members()
    assert {member.health for members in services.values() for member in members} == {"healthy"}
    assert {member.runtime for member in services.pop("payment")} == {"vm"}
    assert {member.runtime for members in services.values() for member in members} == {"container"}
    page = shop.ask("/behind", host=PAGES).body
    assert page.count("another kernel") == 1
    out = shop.daemon.cli(
        *("compose exec -T".split()), *FILE, "cart", "curl", "-sS", "-m", "3", f"http://{BANK}:{PORT}/charges", env=shop.env, check=False
    )
    assert out.code != 0
    assert b"charges" not in out.out


def test_browser(shop: Shop, tmp_path: Path) -> None:
    """A visitor buys something and sees it shipped; another one has JavaScript switched off and a card that is declined at first."""
    with browser(shop.daemon.net, tmp_path) as chromium:
        page = chromium.new_page()
        page.goto(f"http://{PAGES}/")
        accessible(page)
        page.get_by_role("button", name="Add Bearing compass to the cart").click()
        page.get_by_text("Bearing compass is in the cart").wait_for()
        page.get_by_role("link", name="Mooring rope").click()
        page.get_by_role("button", name="Add Mooring rope to the cart").click()
        page.get_by_text("Mooring rope is in the cart").wait_for()
        page.get_by_role("link", name="Cart").click()
        assert "123.90" in page.get_by_role("row", name="Total").inner_text()
        accessible(page)
        check_out(page, then=accessible)
        page.locator("[data-status=shipped]").wait_for()
        accessible(page)
        page.get_by_role("link", name="Behind the counter").click()
        page.get_by_role("row", name="payment").get_by_text("another kernel").wait_for()
        accessible(page)

        plain = chromium.new_context(java_script_enabled=False, viewport={"width": 360, "height": 640}).new_page()
        plain.goto(f"http://{PAGES}/?q=mug")
        plain.get_by_role("button", name="Add Enamel mug to the cart").click()
        check_out(plain, card="A test card that is declined")
        assert "declined" in plain.get_by_role("alert").inner_text()
        plain.get_by_label("A test card that pays").check()
        plain.get_by_role("button", name="Place the order").click()
        plain.get_by_text("Thank you, Ada").wait_for()
        plain.locator("[data-status=shipped]").wait_for()  # the page is read again by itself
        plain.get_by_role("link", name="Orders").click()
        assert plain.get_by_role("row").count() == 3  # a head, and one row for each try


def check_out(page: Page, *, card: str = "A test card that pays", then: Callable[[Page], None] = lambda _: None) -> None:
    page.get_by_role("link", name="Check out").click()
    page.get_by_label("Name").fill("Ada")
    page.get_by_label("Address").fill("1 Quay Street\nHaven")
    page.get_by_label(card).check()
    then(page)
    page.get_by_role("button", name="Place the order").click()


def accessible(page: Page) -> None:
    """axe-core finds nothing to object to."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    assert not found, [(one["id"], [node["target"] for node in one["nodes"]]) for one in found]


def test_once(shop: Shop) -> None:
    """Eight requests at a time with one key: one order, one charge. Another order under that key is refused."""
    cart, key, before = shop.fill_cart(), str(uuid.uuid4()), len(shop.bank.charges())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.order(cart, key), range(8)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["id"] for answer in answers}) == 1
    assert len(shop.bank.charges()) == before + 1
    assert answers[0].body["total"] == 2900
    assert shop.order(cart, key, name="Eve").status == 422
    assert shop.ask(f"/carts/{cart}").body == {"items": []}


def test_bank_in_trouble(shop: Shop) -> None:
    """Callers are told, at once when the breaker is open; the same order again is paid once when the bank is back."""
    cart, key, before = shop.fill_cart(), str(uuid.uuid4()), len(shop.bank.charges())
    shop.bank.be("down")
    try:
        wait_for("the breaker opens", lambda: shop.order(cart, key).status == 503 and breaker(shop) == "open")
        refused = shop.order(cart, key)
        assert refused.status == 503
        assert refused.headers["Retry-After"]
    finally:
        shop.bank.be("ok")
    wait_for("the order is paid", lambda: shop.order(cart, key).status == 201)
    assert breaker(shop) == "closed"
    assert len(shop.bank.charges()) == before + 1


def breaker(shop: Shop) -> str:
    return str(shop.ask("/payments/status").body["breaker"])


def test_worker_dies(shop: Shop) -> None:
    """An order that was paid is shipped, whoever has to."""
    os.kill(worker(), signal.SIGKILL)
    order = shop.order(shop.fill_cart(), str(uuid.uuid4())).body["id"]
    wait_for("the order is shipped", lambda: shop.ask(f"/orders/{order}", host=API).body["status"] == "shipped")


def worker() -> int:
    """The pid of shipping: the only process with this setting of ours."""
    (found,) = [int(path.name) for path in Path("/proc").glob("[0-9]*") if b"PACKING=500ms" in _environment(path) and _is_service(path)]
    return found


def _environment(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "environ").read_bytes()
    return b""


def _is_service(process: Path) -> bool:
    """The program itself, not one that asks after its health ("/service -healthy")."""
    return (process / "cmdline").read_bytes() == b"/service\0"
