"""Large values that many items use: sent once, named by the hash of their bytes.

Inside an item a handle is pickled as its name alone; the worker finds the bytes under that name, in
a file or in the memory of the cluster, and keeps the last few values.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, NoReturn, TypeVar

from adapass.errors import UsageError, WorkerError

T = TypeVar("T")

Resolve = Callable[[str], bytes]
"""From the name of a shared value to its bytes."""

KEPT_VALUES: Final = 4
_kept: Final[OrderedDict[str, object]] = OrderedDict()


class Shared(Generic[T]):
    """A value that travels by name. Equal names mean equal values; do not change what ``get`` returns."""

    def __init__(self, name: str, load: Callable[[], T]) -> None:
        self.name = name
        self._load = load

    def get(self) -> T:
        return self._load()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a shared value can be sent only inside an item of the executor that shared it")


def freeze(value: object) -> tuple[str, bytes]:
    """The name and the bytes of a value.

    Raises:
        UsageError: it cannot be pickled.

    """
    try:
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(f"a value of type '{type(value).__name__}' cannot be shared: {error}") from error
    return hashlib.sha256(data).hexdigest(), data


def pack(call: tuple[object, object]) -> tuple[bytes, frozenset[str]]:
    """A function and its item as bytes, and the names of the shared values in them."""
    buffer = io.BytesIO()
    pickler = _NamingPickler(buffer)
    pickler.dump(call)
    return buffer.getvalue(), frozenset(pickler.names)


def pack_call(
    function: Callable[[T], object], item: T, index: int, known: Callable[[str], bool]
) -> tuple[bytes, frozenset[str]]:
    """Pack item ``index``.

    Raises:
        UsageError: it cannot be pickled, or holds a value that another executor shared.

    """
    try:
        data, names = pack((function, item))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UsageError(
            f"item {index} cannot be sent to a worker: {error}; expected plain values"
        ) from error
    if not all(known(name) for name in names):
        raise UsageError(f"item {index} holds a value that another executor shared; share it with this one")
    return data, names


def unpack(data: bytes, resolve: Resolve) -> tuple[Callable[[object], object], object]:
    """The function and its item, in the worker."""
    function, item = _NamedUnpickler(data, resolve).load()
    return function, item


class _NamingPickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        self.names: set[str] = set()

    def persistent_id(self, obj: object) -> str | None:
        if not isinstance(obj, Shared):
            return None
        self.names.add(obj.name)
        return obj.name


class _NamedUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, resolve: Resolve) -> None:
        super().__init__(io.BytesIO(data))
        self._resolve = resolve

    def persistent_load(self, pid: str) -> Shared[object]:
        return Shared(pid, partial(_load, pid, self._resolve))


def _load(name: str, resolve: Resolve) -> object:
    if name in _kept:
        _kept.move_to_end(name)
        return _kept[name]
    data = resolve(name)
    if hashlib.sha256(data).hexdigest() != name:
        raise WorkerError(f"shared value {name[:12]} arrived damaged ({len(data)} bytes); run again")
    _kept[name] = pickle.loads(data)
    if len(_kept) > KEPT_VALUES:
        _kept.popitem(last=False)
    return _kept[name]
