"""What is measured, one module for each group. `ALL` is the list, in the order of the report."""

from __future__ import annotations

from twinhull.compare.measures import escape, image, isolation, reach
from twinhull.compare.measures.base import Measure
from twinhull.compare.measures.cpu import Cpu
from twinhull.compare.measures.density import Density
from twinhull.compare.measures.disk import Disk
from twinhull.compare.measures.escape import Escape
from twinhull.compare.measures.image import Image
from twinhull.compare.measures.isolation import Isolation
from twinhull.compare.measures.jitter import Jitter
from twinhull.compare.measures.memory import Memory
from twinhull.compare.measures.network import Network
from twinhull.compare.measures.ram import Ram
from twinhull.compare.measures.reach import Reach
from twinhull.compare.measures.start import Cold, Start
from twinhull.compare.measures.system import System
from twinhull.compare.measures.workload import Workload
from twinhull.compare.model import Metric

ALL: tuple[Measure, ...] = (
    Workload(),
    Start(),
    Cold(),
    Memory(),
    Density(),
    Cpu(),
    Ram(),
    System(),
    Disk(),
    Network(),
    Jitter(),
    Image(),
    Isolation(),
    Escape(),
    Reach(),
)
BY_NAME = {measure.name: measure for measure in ALL}
COLUMNS = (
    *(isolation.KERNEL, isolation.CALLS, isolation.VMM, isolation.DEVICES, isolation.POSTURE),
    *(reach.CALLS, reach.FUNCTIONS, escape.COLUMN, *image.COLUMNS),
)
"""Of the tables of what was seen, in the order of the report."""
METRICS: dict[str, Metric] = {metric.name: metric for measure in ALL for metric in measure.metrics}
