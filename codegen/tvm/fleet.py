"""Measure builds on other machines, through the tracker of TVM's RPC that hands out devices by key.

A device that dies, hangs or refuses costs an attempt, never a result: the build is measured again on the
next device that is free. TVM's RPC has no passwords and runs whatever it is sent, so tracker and devices
belong in a network where everybody is trusted.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import create_connection
from typing import Any

from adapass.budgeted import Array, Feeds
from adapass.codegen.defaults import restored
from adapass.codegen.feeds import FeedCheck
from adapass.codegen.files import Lowering
from adapass.codegen.runner import first_line
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.plan import PLAN_FILE, Library, read_plan
from adapass.codegen.tvm.trust import require_trusted
from adapass.errors import TargetError, UsageError

_LIBRARY_FILE = "model.so"
_KEEP_CORES = 1
_GRACE_SECONDS = 2.0
"""A device ends its own session first; only one that is gone does not."""

Tell = Callable[[str, Path], None]
"""Told the device (``host:port``) and the build, when all is in place and the clock is about to start."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Devices of one kind."""

    tracker: str
    """``host:port``"""
    key: str
    """What the devices are called at the tracker; each has the processor that builds were made for."""
    wait_seconds: float = 60.0
    """For a device to become free."""
    session_seconds: float = 60.0
    """For one measurement, the upload included; a device that takes longer counts as dead."""
    attempts: int = 3
    """For each build."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a device found. ``outputs`` are its own: hold them against the reference before believing it."""

    seconds: tuple[float, ...]
    """One run each, by the clock of the device."""
    outputs: Mapping[str, Array]
    device: str
    lost: tuple[str, ...]
    """Devices that did not finish, and why."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No device finished."""

    lost: tuple[str, ...]


def measure(
    fleet: Fleet,
    builds: Sequence[tuple[Path, Feeds]],
    *,
    threads: int = 1,
    rounds: int = 10,
    tell: Tell | None = None,
) -> tuple[Measured | Failed, ...]:
    """Time every build on its feeds, on all devices of the fleet at once; results in the order of ``builds``.

    Raises:
        ArtifactError: a build is damaged or not trusted.
        DataError: the feeds do not fit.
        TargetError: there is no such tracker, or it has no device of this key.
        UsageError: a build runs in stages, TVM is not installed, or a number is below 1.

    """
    if min(threads, rounds, fleet.attempts) < 1:
        raise UsageError(f"threads {threads}, rounds {rounds}, attempts {fleet.attempts}: at least 1 each")
    jobs = [_job(build, feeds, threads, rounds) for build, feeds in builds]
    workers = min(len(jobs), _devices(fleet))
    if not jobs:
        return ()
    with ThreadPoolExecutor(workers) as pool:
        return tuple(pool.map(partial(_measured, fleet, tell), jobs))


@dataclass(frozen=True, slots=True)
class _Job:
    build: Path
    library: Library
    feeds: tuple[Array, ...]
    threads: int
    rounds: int


@dataclass(frozen=True, slots=True)
class _Found:
    seconds: tuple[float, ...]
    outputs: dict[str, Array]


def _job(build: Path, feeds: Feeds, threads: int, rounds: int) -> _Job:
    plan = read_plan(build)
    if plan.lowering is Lowering.STAGED or len(plan.libraries) != 1:
        raise UsageError(f"{build} runs in stages, which fleets do not; build it with lowering=if")
    (library,) = plan.libraries
    require_trusted(build / _LIBRARY_FILE, library)
    checked = FeedCheck(plan.inputs, restored(plan.defaults, build / PLAN_FILE))(feeds)
    own = threads if plan.threads is None else min(threads, plan.threads)
    return _Job(build, library, tuple(checked[name] for name in library.inputs), own, rounds)


def _measured(fleet: Fleet, tell: Tell | None, job: _Job) -> Measured | Failed:
    lost: list[str] = []
    for _ in range(fleet.attempts):
        try:
            device, match = _free_device(fleet)
        except (TargetError, OSError) as error:
            lost.append(first_line(error))
            continue
        found = _within(fleet, partial(_on_device, fleet, device, match, job, tell))
        if isinstance(found, _Found):
            return Measured(found.seconds, found.outputs, _name(device), tuple(lost))
        lost.append(f"{_name(device)}: {found}")
    return Failed(tuple(lost))


def _within(fleet: Fleet, attempt: Callable[[], _Found]) -> _Found | str:
    """What ``attempt`` gives, or why it gave nothing.

    In a thread of its own: a device that loses its power says nothing, and the call that waits for it ends
    with the process. Errors become text at once, since what they refer to would keep the device occupied.
    """
    answers: SimpleQueue[_Found | str] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(attempt())
        except Exception as error:  # TVM has no public base class for its errors
            answers.put(first_line(error))

    threading.Thread(target=run, daemon=True).start()
    try:
        return answers.get(timeout=fleet.session_seconds + _GRACE_SECONDS)
    except Empty:
        return f"no answer within {fleet.session_seconds:g} s"


def _on_device(fleet: Fleet, device: tuple[str, int], match: str, job: _Job, tell: Tell | None) -> _Found:
    session = compiler("tvm.rpc").connect(*device, match, session_timeout=fleet.session_seconds)
    try:
        return _timed(session, job, partial(tell, _name(device), job.build) if tell is not None else None)
    finally:
        with suppress(RuntimeError):  # it is gone already
            session.get_function("CloseRPCConnection")()  # else it stays occupied until memory is collected


def _timed(session: Any, job: _Job, tell: Callable[[], None] | None) -> _Found:
    tvm, relax = compiler(), compiler("tvm.relax")
    session.get_function("runtime.config_threadpool")(_KEEP_CORES, job.threads)
    session.upload(str(job.build / _LIBRARY_FILE), _LIBRARY_FILE)
    processor = session.cpu()
    machine = relax.VirtualMachine(session.load_module(_LIBRARY_FILE), processor)
    machine.set_input("main", *(tvm.runtime.tensor(array, processor) for array in job.feeds))
    machine.invoke_stateful("main")
    *values, site = (each.numpy() for each in machine.get_outputs("main"))
    if wrong := int(site.reshape(-1)[0]):
        raise TargetError(f"{job.library.sites[wrong - 1]} reads outside: the feeds do not fit the model")
    if tell is not None:
        tell()
    clock = machine.time_evaluator("invoke_stateful", processor, number=1, repeat=job.rounds)
    seconds = tuple(float(each) for each in clock("main").results)
    return _Found(seconds, dict(zip(job.library.outputs, values, strict=True)))


def _name(device: tuple[str, int]) -> str:
    return f"{device[0]}:{device[1]}"


def free_devices(fleet: Fleet) -> int:
    """How many devices of this key wait for work.

    Raises:
        TargetError: there is no such tracker.

    """
    queue = _summary(fleet)["queue_info"].get(fleet.key, {})
    return int(queue.get("free", 0))


def _devices(fleet: Fleet) -> int:
    """How many devices of this key the tracker knows, busy ones too."""
    keys = [str(each["key"]) for each in _summary(fleet)["server_info"]]
    if not (count := keys.count(f"server:{fleet.key}")):
        known = ", ".join(sorted({key.removeprefix("server:") for key in keys})) or "none"
        raise TargetError(f"tracker {fleet.tracker} has no device '{fleet.key}'; it has: {known}")
    return count


def _summary(fleet: Fleet) -> Any:
    codes = compiler("tvm.rpc.base").TrackerCode
    try:
        (summary,) = _asked(fleet, [codes.SUMMARY])
    except OSError as error:
        raise TargetError(f"tracker {fleet.tracker} does not answer: {error}") from error
    return summary


def _free_device(fleet: Fleet) -> tuple[tuple[str, int], str]:
    """Where the next free device listens, and the word it expects."""
    codes = compiler("tvm.rpc.base").TrackerCode
    first_come = 1
    try:
        (found,) = _asked(fleet, [codes.REQUEST, fleet.key, "", first_come])
    except TimeoutError as error:
        raise TargetError(f"no device '{fleet.key}' is free within {fleet.wait_seconds:g} s") from error
    host, port, match = found
    return (str(host), int(port)), str(match)


def _asked(fleet: Fleet, question: list[object]) -> list[Any]:
    """The answer of the tracker. (TVM's own client waits for ever, and does not tell which device it got.)"""
    base = compiler("tvm.rpc.base")
    host, _, port = fleet.tracker.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"tracker is '{fleet.tracker}', expected host:port")
    with create_connection((host, int(port)), timeout=fleet.wait_seconds) as line:
        line.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        if struct.unpack("<i", base.recvall(line, 4))[0] != base.RPC_TRACKER_MAGIC:
            raise TargetError(f"{fleet.tracker} is no tracker of TVM")
        base.sendjson(line, question)
        code, *answer = base.recvjson(line)
    if code != base.TrackerCode.SUCCESS:
        raise TargetError(f"tracker {fleet.tracker} answers {code}")
    return list(answer)
