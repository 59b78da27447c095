"""What tools print, read; and what they didn't print, refused."""

from __future__ import annotations

import ctypes

import pytest

from twinhull.compare import bpf, measures
from twinhull.compare.measures import base, disk, network, ram, system
from twinhull.compare.subjects.base import NotMeasuredError
from twinhull.instance import capabilities, seccomp
from twinhull.instance.base import Region
from twinhull.instance.vm import regions
from twinhull.instance.vm.filter import compile_profile

SYSBENCH = """
Total operations: 2048 (14012.31 per second)

2048.00 MiB transferred (14012.31 MiB/sec)


General statistics:
    total time:                          0.1461s
    total number of events:              2048
CPU speed:
    events per second:  5296.22
"""
STRESS = """stress-ng: info:  [13] dispatching hogs: 1 fork
stress-ng: metrc: [13] stressor       bogo ops real time  usr time  sys time   bogo ops/s     bogo ops/s
stress-ng: metrc: [13]                           (secs)    (secs)    (secs)   (real time) (usr+sys time)
stress-ng: metrc: [13] fork               2321      1.00      0.49      0.47      2320.97        2432.24
stress-ng: info:  [13] successful run completed in 1.00s
"""
WRK = """Running 1s test @ http://10.0.0.2:80/
  1 threads and 1 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   112.43us  245.10us   6.51ms   97.44%
  Latency Distribution
     50%   81.00us
     75%  102.00us
     99%    1.20ms
  10917 requests in 1.00s, 9.02MB read
Requests/sec:  10912.41
Transfer/sec:      9.02MB
"""
FIO = """fio: this is a remark
{"jobs": [{"jobname": "random1",
           "read": {"total_ios": 10, "bw_bytes": 4096, "iops": 1.5}, "write": {"total_ios": 0, "bw_bytes": 0, "iops": 0}},
          {"jobname": "fsync",
           "read": {"total_ios": 0, "bw_bytes": 0, "iops": 0}, "write": {"total_ios": 7, "bw_bytes": 8, "iops": 9}}]}
"""


MTREE = """FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-000000000000006f (prio 0, i/o): io
  0000000000000070-0000000000000070 (prio 0, i/o): rtc-index
  0000000000000071-0000000000000071 (prio 0, i/o): rtc @0000000000000001
  0000000000000072-000000000000ffff (prio 0, i/o): io @0000000000000072

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
  0000000000000000-00000000000effff (prio 0, ram): ram KVM
  00000000feb02e00-00000000feb02fff (prio 0, i/o): virtio-mmio
  00000000fee00000-00000000feefffff (prio 4096, i/o): apic-msi
  00000000ffff0000-00000000ffffffff (prio 0, rom): pc.bios

FlatView #2
 AS "other", root: other
  0000000000000000-000000000000ffff (prio 0, i/o): something
"""


def test_what_qemu_answers_to_a_guest_without_ram_rom_and_gaps() -> None:
    assert regions.parse(MTREE) == (
        Region("memory", 0xFEB02E00, 0x200, "virtio-mmio"),
        Region("memory", 0xFEE00000, 0x100000, "apic-msi"),
        Region("ports", 0x70, 1, "rtc-index"),
        Region("ports", 0x71, 1, "rtc"),
    )
    assert regions.parse("Error: no such command\n") == ()


def test_every_bad_neighbour_is_measured_beside_a_victim_in_each_hull() -> None:
    names = {name for name in measures.METRICS if name.startswith("jitter.")}
    wanted = {f"jitter.{hog}_{victim}" for hog in ("fork", "memory", "disk", "network") for victim in ("container", "sandbox", "vm")}
    assert names == wanted | {"jitter.quiet"}


def test_sysbench() -> None:
    assert base.number_after(SYSBENCH, "transferred (") == 14012.31
    assert base.number_after(SYSBENCH, "events per second:") == 5296.22
    assert ram.seconds(SYSBENCH) == 0.1461


def test_stress_ng_and_dd() -> None:
    assert system.rate(STRESS, "fork") == 2320.97
    assert system.copied("100000+0 records out\n100000 bytes (100 kB, 98 KiB) copied, 0.239952 s, 417 kB/s\n") == 0.239952


def test_wrk() -> None:
    assert network.rate(WRK) == 10912.41
    assert network.half(WRK) == pytest.approx(81e-6)
    with pytest.raises(NotMeasuredError, match="200"):
        network.rate(WRK + "  Non-2xx or 3xx responses: 7\n")


def test_iperf3() -> None:
    assert network.throughput('{"end": {"sum_received": {"bits_per_second": 8e9}}}') == 1e9
    with pytest.raises(NotMeasuredError, match="refused"):
        network.throughput('{"error": "unable to connect: refused"}')


def test_fio() -> None:
    assert disk.results(FIO) == {"random1": (4096.0, 1.5), "fsync": (8.0, 9.0)}


@pytest.mark.parametrize("broken", ["", "nothing of the kind", "events per second:"])
def test_output_without_the_figure_is_refused_with_a_reason(broken: str) -> None:
    with pytest.raises(NotMeasuredError, match="no"):
        base.number_after(broken, "events per second:")
    with pytest.raises(NotMeasuredError):
        system.rate(broken, "fork")
    with pytest.raises(NotMeasuredError):
        network.half(broken)


def test_a_seccomp_filter_is_evaluated_as_the_kernel_does() -> None:
    """The default profile, compiled by libseccomp: exactly the calls that it names come out as allowed."""
    profile = seccomp.default_profile(frozenset(capabilities.DEFAULT), "x86_64")
    program = bpf.decode(compile_profile(profile))
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name
    names = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    always = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args") for name in rule["names"]}
    found = bpf.allowed([program], 470)
    assert {number for name in always if 0 <= (number := resolve(name.encode())) <= 470} <= found
    assert found <= {resolve(name.encode()) for name in names}
    assert bpf.allowed([], 470) == set(range(471))


def test_several_filters_allow_what_all_of_them_allow() -> None:
    allow = [bpf.Instruction(0x06, 0, 0, bpf.ALLOW)]
    only_seven = [
        bpf.Instruction(0x20, 0, 0, 0),
        bpf.Instruction(0x15, 0, 1, 7),
        bpf.Instruction(0x06, 0, 0, bpf.ALLOW),
        bpf.Instruction(0x06, 0, 0, 0),
    ]
    assert bpf.allowed([allow, only_seven], 10) == {7}
    with pytest.raises(bpf.BpfError):
        bpf.run([bpf.Instruction(0x20, 0, 0, 0)], bytes(64))
