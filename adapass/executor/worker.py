"""The worker process: reads calls from its standard input, answers on what was its standard output.

It leaves as soon as its parent is gone, however the parent ended: its input then ends, and where a
fork of the parent keeps the pipe open, its parent's number changes.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Final

from adapass.executor.call import run_packed
from adapass.executor.descendants import kill_descendants

_LENGTH_BYTES: Final = 8
_PARENT_LOOKS_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Order:
    """A packed call, and the folder with the shared values."""

    call: bytes
    shared_folder: str | None


def write_message(stream: IO[bytes], data: bytes) -> None:
    """Length, then bytes.

    Raises:
        OSError: the other side is gone.

    """
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(data)
    stream.flush()


def read_message(stream: IO[bytes]) -> bytes:
    """One message.

    Raises:
        EOFError: the other side is gone.

    """
    length = int.from_bytes(_read_exactly(stream, _LENGTH_BYTES), "little")
    return _read_exactly(stream, length)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def work(parent: int) -> None:
    """Answer orders until process ``parent`` is gone; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faulthandler.enable()
    incoming, outgoing = _take_pipes()
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    _Listener(incoming, orders).start()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    while True:
        _answer(orders.get(), outgoing)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    # What a function prints must not get between the answers: it goes to standard error.
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


class _Listener(threading.Thread):
    """Reads ahead, so that the end of the input is seen while a call runs."""

    def __init__(self, incoming: BinaryIO, orders: queue.SimpleQueue[Order]) -> None:
        super().__init__(daemon=True)
        self._incoming = incoming
        self._orders = orders
        self._folder: str | None = None

    def run(self) -> None:
        while (order := self._next()) is not None:
            self._folder = order.shared_folder
            self._orders.put(order)
        if self._folder is not None:  # the parent was killed before it could
            shutil.rmtree(self._folder, ignore_errors=True)
        _leave()

    def _next(self) -> Order | None:
        try:
            order: Order = pickle.loads(read_message(self._incoming))
        except (EOFError, OSError):
            return None
        return order


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_LOOKS_SECONDS)
    _leave()


def _leave() -> None:
    kill_descendants(os.getpid())
    os._exit(1)


def _answer(order: Order, outgoing: BinaryIO) -> None:
    outcome = run_packed(order.call, partial(_shared_bytes, order.shared_folder))
    sys.stdout.flush()
    try:
        write_message(outgoing, outcome)
    except OSError:
        _leave()


def _shared_bytes(folder: str | None, name: str) -> bytes:
    return Path(folder or "", name).read_bytes()
