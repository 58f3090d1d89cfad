"""Measuring through TVM's own tracker and servers: processes on this machine, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import psutil
import pytest

from adapass.codegen.tvm.fleet import Failed, Fleet, Measured, measure
from adapass.codegen.tvm.plan import PLAN_FILE
from adapass.errors import DataError, TargetError, UsageError
from adapass.registry import generator
from adapass.target import load_target

pytest.importorskip("tvm_ffi", reason="TVM is not installed: pip install 'adapass[tvm]'")
pytest.importorskip("tornado", reason="TVM's tracker needs tornado")
pytestmark = pytest.mark.filterwarnings("ignore")

KEY = "board"
PLAIN = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 4] x) => (float[B, 2] y) <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul(x, w) }
"""
X = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 2]], np.float32)
Y = [[1, 2], [3, 4], [14, 16]]

TRACKER = """
import sys
from tvm.rpc.tracker import PopenTrackerServerState
PopenTrackerServerState("127.0.0.1", int(sys.argv[1]), int(sys.argv[1]) + 1)
"""
SERVER = """
import sys
from tvm.rpc.server import PopenRPCServerState
tracker, port = int(sys.argv[1]), int(sys.argv[2])
PopenRPCServerState("127.0.0.1", port, port + 1, tracker_addr=("127.0.0.1", tracker), key=sys.argv[3])
"""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPASS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    generator("tvm").build(ir.from_onnx_text(PLAIN), load_target("cpu"), folder, {})
    return folder


@dataclass(frozen=True, slots=True)
class Machines:
    """A tracker, and two devices by name."""

    tracker: str
    servers: dict[str, subprocess.Popen[bytes]]

    def kill(self, device: str) -> None:
        """The server, and the process that serves a session."""
        server = psutil.Process(self.servers[device].pid)
        for each in [*server.children(recursive=True), server]:
            each.send_signal(signal.SIGKILL)
        self.servers[device].wait()


def start(code: str, *arguments: int | str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    env = {**os.environ, "TVM_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports


@pytest.fixture
def machines() -> Iterator[Machines]:
    tracker, *ports = free_ports(3)
    processes = [start(TRACKER, tracker)]
    servers = {f"127.0.0.1:{port}": start(SERVER, tracker, port, KEY) for port in ports}
    processes += servers.values()
    try:
        wait_for(f"127.0.0.1:{tracker}", 2)
        yield Machines(f"127.0.0.1:{tracker}", servers)
    finally:
        for process in processes:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            process.wait()


def wait_for(tracker: str, count: int) -> None:
    """Until so many devices are free."""
    from adapass.codegen.tvm import fleet

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if fleet.free_devices(Fleet(tracker, KEY, wait_seconds=5)) >= count:
                return
        except (TargetError, OSError):
            pass
        time.sleep(0.2)
    pytest.fail("the devices did not come up")


def test_a_device_that_dies_loses_nothing(machines: Machines, build: Path) -> None:
    fleet = Fleet(machines.tracker, KEY, wait_seconds=60, session_seconds=300)
    killed: list[str] = []

    def kill_the_first(device: str, _: Path) -> None:
        if not killed:
            killed.append(device)
            machines.kill(device)

    whole = measure(fleet, [(build, {"x": X})] * 3, rounds=4)
    found = measure(fleet, [(build, {"x": X})], rounds=3, tell=kill_the_first)

    for each in whole:
        assert isinstance(each, Measured)
        assert len(each.seconds) == 4
        assert min(each.seconds) > 0
        assert each.lost == ()
        assert each.outputs["y"].tolist() == Y
    assert {each.device for each in whole if isinstance(each, Measured)} == set(machines.servers)
    (again,) = found
    assert isinstance(again, Measured)
    (survivor,) = set(machines.servers) - set(killed)
    assert again.device == survivor
    assert len(again.lost) == 1
    assert again.lost[0].startswith(f"{killed[0]}: ")
    assert again.outputs["y"].tolist() == Y
    check_what_cannot_be_measured(machines, build)


def check_what_cannot_be_measured(machines: Machines, build: Path) -> None:
    """On the same machines, since starting them takes seconds."""

    def refuse(device: str, _: Path) -> None:
        raise RuntimeError(f"{device} is on fire")

    fleet = Fleet(machines.tracker, KEY, wait_seconds=60, session_seconds=300, attempts=2)
    (failed,) = measure(fleet, [(build, {"x": X})], tell=refuse)
    assert isinstance(failed, Failed)
    assert [reason.partition(": ")[2].split()[-1] for reason in failed.lost] == ["fire", "fire"]
    with pytest.raises(DataError, match="axis 1 has 3 entries"):
        measure(fleet, [(build, {"x": X[:, :3]})])
    with pytest.raises(TargetError, match="has no device 'phone'; it has: board"):
        measure(Fleet(machines.tracker, "phone"), [(build, {"x": X})])

    def freeze(device: str, _: Path) -> None:
        """As a device that lost its power: no answer, and no end of the connection."""
        server = psutil.Process(machines.servers[device].pid)
        for each in [server, *server.children(recursive=True)]:
            each.suspend()

    frozen = Fleet(machines.tracker, KEY, wait_seconds=60, session_seconds=2, attempts=1)
    (failed,) = measure(frozen, [(build, {"x": X})], tell=freeze)
    assert isinstance(failed, Failed)
    assert failed.lost[0].endswith("no answer within 2 s")


def test_wrong_requests_are_named(build: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(TargetError, match="does not answer"):
        measure(Fleet(f"127.0.0.1:{port}", KEY), [(build, {"x": X})])
    with pytest.raises(UsageError, match="expected host:port"):
        measure(Fleet("nowhere", KEY), [(build, {"x": X})])
    with pytest.raises(UsageError, match="rounds 0"):
        measure(Fleet("nowhere:1", KEY), [(build, {"x": X})], rounds=0)
    plan = json.loads((build / PLAN_FILE).read_text())
    (tmp_path / PLAN_FILE).write_text(json.dumps({**plan, "lowering": "staged"}))
    with pytest.raises(UsageError, match="runs in stages"):
        measure(Fleet("nowhere:1", KEY), [(tmp_path, {"x": X})])
