"""Errors of every class survive pickling: they must come out of a worker as they were raised."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from adapass import errors, pipeline
from adapass.errors import AdapassError, TimeUpError, WorkerError
from adapass.executor.call import RemoteTraceback, describe
from adapass.observe import Step
from adapass.pipeline import PassError, TooLossyError
from adapass.text_form import parse_passes


def _classes() -> list[type[AdapassError]]:
    values = [value for module in (errors, pipeline) for value in vars(module).values()]
    found = {value for value in values if isinstance(value, type) and issubclass(value, AdapassError)}
    return sorted(found, key=lambda kind: kind.__name__)


def _made(kind: type[AdapassError]) -> AdapassError:
    if issubclass(kind, PassError):
        before, step = parse_passes("fold-constants,remove-identities")
        return kind(Step(1, 2, step), [before], "moved output 'y' by 3.5", ["node_3", "node_4"])
    return kind("model 'm.onnx': found 3, expected 4")


def _pickled(error: AdapassError) -> object:
    return pickle.loads(pickle.dumps(error))


def test_every_class_is_seen() -> None:
    assert {AdapassError, TimeUpError, WorkerError, PassError, TooLossyError} <= set(_classes())


@pytest.mark.parametrize("kind", _classes())
@pytest.mark.parametrize("copied", [_pickled, copy.copy], ids=["pickle", "copy"])
def test_an_error_keeps_type_text_and_attributes(
    kind: type[AdapassError], copied: Callable[[AdapassError], object]
) -> None:
    error = _made(kind)
    error.add_note("a note")

    again = copied(error)

    assert isinstance(again, AdapassError)
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert again.exit_code is kind.exit_code


def test_what_was_done_travels_with_time_up() -> None:
    again: TimeUpError = pickle.loads(pickle.dumps(TimeUpError("late", {3: 0.5})))

    assert again.done == {3: 0.5}


def test_an_error_is_chained_to_the_text_of_its_traceback() -> None:
    try:
        raise _made(TooLossyError)
    except TooLossyError as error:
        failure = describe(error)

    with pytest.raises(TooLossyError, match=r"moved output 'y' by 3\.5") as caught:
        failure.throw()

    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "test_an_error_is_chained" in str(caught.value.__cause__)
