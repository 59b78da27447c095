"""The load generator's pure parts: when requests are due, what is counted, what is a URL of one's own service, what is said."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhull.cli.verbs import load
from twinhull.engine.apps.base import ServiceView
from twinhull.errors import UserError
from twinhull.load.result import Histogram, Result
from twinhull.load.run import Site
from twinhull.load.shape import SHAPES, due, shape
from twinhull.spec.instance import PortMapping

SHARE = {"steady": 1.0, "step": 0.55, "ramp": 0.5, "spike": 0.1 + 0.9 * 5 / 60, "sine": 0.5, "day": 0.75 * 2 / 3.14159}
"""Of the highest rate, on average over a minute."""


@pytest.mark.parametrize("name", SHAPES)
def test_as_many_are_due_as_the_shape_has(name: str) -> None:
    times = list(due(shape(name, 400, 60), 60))
    assert len(times) == pytest.approx(400 * 60 * SHARE[name], rel=0.01)
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] < 60
    busiest = max(sum(1 for _ in group) for _, group in itertools.groupby(times, key=int))
    assert busiest <= 401


@given(name=st.sampled_from(SHAPES), rate=st.floats(0.1, 2000), seconds=st.floats(0.5, 20))
def test_never_more_than_the_rate(name: str, rate: float, seconds: float) -> None:
    times = list(due(shape(name, rate, seconds), seconds))
    assert len(times) <= rate * seconds
    assert all(after - before >= 0.99 / rate for before, after in itertools.pairwise(times))


def test_a_step_and_a_day() -> None:
    step = shape("step", 400, 40)
    assert [step(t) for t in (0, 9.9, 10, 29.9, 30)] == [40, 40, 400, 400, 40]
    day = shape("day", 100, 240)
    assert [round(day(t)) for t in (0, 59, 150, 239.999)] == [0, 0, 100, 0]


@given(st.lists(st.floats(1e-4, 60), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_at_most_one_percent_too_high(times: list[float], share: float) -> None:
    histogram = Histogram()
    for each in times:
        histogram.add(each)
    true = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    assert true * 0.9999 <= histogram.quantile(share) <= true * 1.0101 or histogram.quantile(share) == max(times)


def test_counts_and_the_timeline() -> None:
    result = Result(requests=5)
    for status, seconds in ((200, 0.010), (204, 0.020), (503, 0.5)):
        result.answer(status, seconds)
    result.failures["broken off"] += 1
    assert (result.answered, result.failed, result.open) == (2, 2, 1)
    first, second = result.tick(1.0, 2, 1), result.tick(2.0)
    assert (first.rate, first.answered, first.failed, first.open, first.ready) == (5, 2, 2, 1, 1)
    assert (second.rate, second.answered, second.p95, second.desired) == (0, 0, 0, -1)
    result.finish(2.5)
    assert len(result.timeline) == 2  # nothing happened since
    summary = result.summary()
    assert summary["failures"] == {"status 503": 1, "broken off": 1}
    assert summary["unfinished"] == 1
    assert [line["at"] for line in summary["timeline"]] == [1.0, 2.0]
    result.requests += 3
    result.finish(2.1)
    assert (result.timeline[-1].at, result.timeline[-1].rate) == (2.1, 3)
    assert summary["p50"] == pytest.approx(0.020, rel=0.01)


ROUTES = ("http://shop.localhost:8080/", "https://*.shop.localhost/api", "tcp://mail.localhost/")
SERVICE = ServiceView(
    "web", "up", "vm", "i", "1", "f", 3, 2, routes=ROUTES, ports=(PortMapping(80, 9000), PortMapping(53, 9000, protocol="udp"))
)


def test_addresses_of_a_service() -> None:
    assert list(load.addresses(SERVICE)) == ["http://shop.localhost:8080/", "https://load.shop.localhost/api", "http://localhost:9000/"]


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://shop.localhost:8080/", True),
        ("http://shop.localhost:8080/a?b=c", True),
        ("http://127.0.0.1:9000", True),
        ("https://load.shop.localhost/api/x", True),
        ("https://load.shop.localhost/apis", False),
        ("http://shop.localhost/", False),
        ("http://localhost:9001/", False),
        ("http://example.org:8080/", False),
        ("https://shop.localhost:8080/", False),
    ],
)
def test_only_urls_of_services_here(url: str, own: bool) -> None:
    assert load.leads(url, load.addresses(SERVICE)) is own


@pytest.mark.parametrize("url", ["ftp://a/", "http://", "http://a:x/", "http://a b/", "http://a/\r\nX: y", "http://a:99999/"])
def test_no_urls(url: str) -> None:
    with pytest.raises(UserError):
        load.leads(url, ["http://a/"])


def test_what_is_said() -> None:
    result = Result(requests=4)
    for seconds in (0.010, 0.020, 1.5):
        result.answer(200, seconds)
    result.failures["connection refused"] += 1
    for at, ready in ((1.0, 1), (2.0, 4)):
        line = result.tick(at, 4, ready)
    order = load.Order("shop", "web", "http://shop.localhost/", Site("127.0.0.1", 80, "shop.localhost"), "step", 400, 60)
    assert load.told(order, result) == [
        "http://shop.localhost/ · step, up to 400/s, 2 of 60 s",
        "4 requests: 3 answered, 1 failed",
        "p50 20 ms · p95 1.50 s · p99 1.50 s · slowest 1.50 s, each from the time it was due",
        "  1 × connection refused",
        "requests/s █▁ 0–4",
        "   p95, ms █▁ 0–1500",
        " instances ▃█ 1–4",
    ]
    assert load.live(line, result) == "    2 s · 0/s · p95 0 ms · 0 open · 4/4 instances · in all 3 answered, 1 failed"
    assert load.spark([float(number) for number in range(8)]) == "▁▂▃▄▅▆▇█"
    assert load.spark([0.0, 7.0, 0.0, 0.0], 2) == "█▁"
