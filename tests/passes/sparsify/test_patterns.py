"""Where zeros may be: the text of a pattern, and the masks it allows."""

from __future__ import annotations

import numpy as np
import pytest

from adapass.errors import UsageError
from adapass.passes.sparsify.patterns import Pattern


@pytest.mark.parametrize(
    ("text", "share"),
    [("2:4", 0.5), ("1:4", 0.75), ("4x4-0.25", 0.25), ("1x16-0.5", 0.5), ("unstructured-0.9", 0.9)],
)
def test_reads_its_text(text: str, share: float) -> None:
    assert Pattern.parse(text).share == pytest.approx(share)


@pytest.mark.parametrize(
    "text", ["", "4:2", "4:4", "0:4", "4x4", "4x4-1.5", "0x4-0.5", "unstructured-0.0", "unstructured", "2:4 "]
)
def test_refuses_what_is_no_pattern(text: str) -> None:
    with pytest.raises(UsageError, match="sparsity pattern"):
        Pattern.parse(text)


def test_keeps_the_two_most_salient_of_four_inputs() -> None:
    saliency = np.array([[1.0, 9.0], [3.0, 8.0], [2.0, 7.0], [4.0, 6.0]])

    mask = Pattern.parse("2:4").choose(saliency)

    np.testing.assert_array_equal(mask, [[False, True], [True, True], [False, False], [True, False]])


def test_ties_go_to_the_first() -> None:
    np.testing.assert_array_equal(Pattern.parse("1:2").choose(np.ones((2, 1))), [[True], [False]])


def test_whole_blocks_go() -> None:
    saliency = np.arange(32.0).reshape(8, 4)  # inputs x outputs

    mask = Pattern.parse("2x4-0.5").choose(saliency)  # 2 outputs x 4 inputs

    assert not mask[:4].any()
    assert mask[4:].all()


def test_says_which_size_does_not_fit() -> None:
    assert Pattern.parse("2:4").objection(6, 3) == "the number of inputs is not a multiple of the pattern's"
    assert (
        Pattern.parse("4x4-0.5").objection(8, 3) == "the number of outputs is not a multiple of the pattern's"
    )
    assert Pattern.parse("4x4-0.5").objection(8, 4) is None


def test_chunks_are_whole_groups() -> None:
    assert Pattern.parse("2:6").chunk(6000) == 126
    assert Pattern.parse("unstructured-0.5").chunk(64) == 8
    assert Pattern.parse("1x200-0.5").chunk(400) == 200
