"""Where zeros may be: N:M, blocks, or anywhere.

    2:4                two of every four consecutive inputs of an output stay
    1x16-0.5, 4x4-0.5  blocks of 1 output x 16 inputs, or 4 x 4; half of them go
    unstructured-0.5   half of all weights go, wherever they are

A weight is a matrix [inputs, outputs] here; blocks are written outputs x inputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapass.errors import UsageError

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CHUNK = 128
CHUNKS = 8
"""Inputs whose mask is chosen together, before any of them is taken out: at most ``CHUNK``, and so few that
there are ``CHUNKS`` of them. What is chosen together does not know how the others will have moved."""
_N_OF_M = re.compile(r"([1-9]\d?):([1-9]\d?)")
_BLOCKS = re.compile(r"([1-9]\d{0,2})x([1-9]\d{0,2})-(0\.\d{1,4})")
_ANYWHERE = re.compile(r"unstructured-(0\.\d{1,4})")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern: how many of a group of inputs stay, or which share of the blocks goes."""

    text: str
    high: int
    """Outputs in a block; 1 for N:M and for single weights."""
    wide: int
    """Inputs in a block, or in a group of N:M."""
    kept: int | None
    """Of N:M: how many of a group stay. ``None`` for shares."""
    share: float
    """Share of the weights that goes."""

    @staticmethod
    def parse(text: str) -> Pattern:
        """Read the text form.

        Raises:
            UsageError: it is no pattern.

        """
        if (found := _N_OF_M.fullmatch(text)) is not None:
            kept, group = int(found[1]), int(found[2])
            if kept < group:
                return Pattern(text, 1, group, kept, 1.0 - kept / group)
        if (found := _BLOCKS.fullmatch(text)) is not None and float(found[3]) > 0.0:
            return Pattern(text, int(found[1]), int(found[2]), None, float(found[3]))
        if (found := _ANYWHERE.fullmatch(text)) is not None and float(found[1]) > 0.0:
            return Pattern(text, 1, 1, None, float(found[1]))
        raise UsageError(f"'{text}' is no sparsity pattern; write 2:4, 1x16-0.5, 4x4-0.5 or unstructured-0.5")

    def chunk(self, inputs: int) -> int:
        """How many of the inputs to choose together: whole groups or blocks."""
        return max(min(CHUNK, inputs // CHUNKS) // self.wide, 1) * self.wide

    def objection(self, inputs: int, outputs: int) -> str | None:
        """Why a weight of this size cannot have the pattern."""
        if inputs % self.wide:
            return "the number of inputs is not a multiple of the pattern's"
        if outputs % self.high:
            return "the number of outputs is not a multiple of the pattern's"
        return None

    def fits(self, mask: Mask) -> bool:
        """Whether no more stays than the pattern allows; ``mask`` [inputs, outputs]."""
        inputs, outputs = mask.shape
        if self.objection(inputs, outputs) is not None:
            return False
        if self.kept is not None:
            return bool((mask.reshape(-1, self.wide, outputs).sum(axis=1) <= self.kept).all())
        blocks = mask.reshape(inputs // self.wide, self.wide, outputs // self.high, self.high).any((1, 3))
        return bool(blocks.sum() <= blocks.size - self.gone(inputs, outputs))

    def gone(self, inputs: int, outputs: int) -> int:
        """How many blocks of a weight of this size go."""
        return int(np.floor(self.share * (inputs // self.wide) * (outputs // self.high) + 1e-9))

    def choose(self, saliency: Doubles, gone: int | None = None) -> Mask:
        """True where weights stay: the most salient of each group, or all but the least salient blocks.

        ``saliency`` [inputs, outputs], of whole groups; ``gone`` blocks of them go in the place of the
        share, where this is a part of a weight. Ties go to the first.
        """
        inputs, outputs = saliency.shape
        if self.kept is not None:
            groups = saliency.reshape(inputs // self.wide, self.wide, outputs)
            rank = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1, kind="stable")
            return (rank < self.kept).reshape(inputs, outputs)
        blocks = saliency.reshape(inputs // self.wide, self.wide, outputs // self.high, self.high).sum((1, 3))
        gone = self.gone(inputs, outputs) if gone is None else gone
        stays = np.ones(blocks.size, np.bool_)
        stays[np.argsort(blocks, axis=None, kind="stable")[:gone]] = False
        cells = stays.reshape(inputs // self.wide, 1, outputs // self.high, 1)
        return np.tile(cells, (1, self.wide, 1, self.high)).reshape(inputs, outputs)
