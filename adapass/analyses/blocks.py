"""Blocks."""

from __future__ import annotations
from dataclasses import dataclass
from typing import Self
import onnx_ir as ir
from adapass.facts import Fact, FactCache


@dataclass(frozen=True, slots=True)
class Block:
    index: int
    entry: str
    exit: str


@dataclass(frozen=True, slots=True)
class Blocks(Fact):
    blocks: tuple[Block, ...]

    @classmethod
    def compute(cls, model: ir.Model, facts: FactCache) -> Self:
        return cls(())
