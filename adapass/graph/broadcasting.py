"""Operators that broadcast their inputs as numpy does."""

from __future__ import annotations

from typing import Final

BINARY: Final = frozenset(
    {
        *("Add", "Div", "Mod", "Mul", "Pow", "Sub"),
        *("And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Or", "Xor"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    }
)
"""Two inputs, of which each may be broadcast to the other."""
BROADCASTING: Final = BINARY | {"Max", "Mean", "Min", "PRelu", "Sum", "Where"}
"""Any number of inputs; of PRelu the second alone may be broadcast."""
