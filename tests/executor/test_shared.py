"""Shared values: named by content, checked, and kept for a while."""

from __future__ import annotations

import pickle
from typing import cast

import pytest

from adapass.errors import UsageError, WorkerError
from adapass.executor import InProcess, Shared
from adapass.executor.shared import KEPT_VALUES, freeze, pack, unpack
from adapass.testing import jobs


def _arrived(handle: Shared[object], resolved: dict[str, bytes], asked: list[str]) -> object:
    def resolve(name: str) -> bytes:
        asked.append(name)
        return resolved[name]

    data, names = pack((jobs.process, [{"deep": handle}]))
    assert names == {handle.name}
    function, item = unpack(data, resolve)
    assert function is jobs.process
    return cast("list[dict[str, Shared[object]]]", item)[0]["deep"].get()


def _handle(value: object) -> tuple[Shared[object], bytes]:
    name, data = freeze(value)
    return Shared(name, lambda: value), data


def test_equal_values_have_one_name_and_others_another() -> None:
    assert freeze([1, 2])[0] == freeze([1, 2])[0] != freeze([1, 3])[0]


def test_the_last_few_values_are_kept() -> None:
    asked: list[str] = []
    handles = [_handle(("kept", number)) for number in range(KEPT_VALUES + 1)]
    resolved = {handle.name: data for handle, data in handles}

    for turn in range(2):
        for handle, _ in handles[:KEPT_VALUES]:
            assert _arrived(handle, resolved, asked) == handle.get()
        assert len(asked) == KEPT_VALUES, f"turn {turn}"
    _arrived(handles[-1][0], resolved, asked)
    _arrived(handles[0][0], resolved, asked)

    assert len(asked) == KEPT_VALUES + 2


def test_bytes_that_are_not_those_of_the_name_are_not_unpickled() -> None:
    handle, _ = _handle("the value")

    with pytest.raises(WorkerError, match=r"shared value \w{12} arrived damaged \(3 bytes\)"):
        _arrived(handle, {handle.name: b"bad"}, [])


def test_a_handle_travels_only_in_items() -> None:
    with pytest.raises(TypeError, match="only inside an item of the executor that shared it"):
        pickle.dumps(InProcess().share(1))
    with pytest.raises(UsageError, match="a value of type 'Shared' cannot be shared"):
        freeze(InProcess().share(1))
