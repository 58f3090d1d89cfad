"""What the rules of the operators share: the dimensions of every value, and what a removal must rewrite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from adapass.coupling.dims import LONELY, SINGLE, Dim, Size, find, fix, leaf, mark, one_like
from adapass.coupling.relations import unify
from adapass.graph.constants import constant_tensor

Role = Literal["writes", "reads", "follows", "carries"]
Dims = tuple[Dim, ...]
SEVERAL = 2


class Refused(Exception):  # noqa: N818 - not an error: it says why a node cannot be followed
    """A rule cannot follow a node; the reason is told to the user. All its dimensions are fixed then."""


@dataclass(frozen=True, slots=True)
class Sized:
    """Integers of a node that count along dimensions: element ``i`` is the sum of ``elements[i]``."""

    node: ir.Node
    index: int | None
    """Position among the inputs; ``None`` for an attribute."""
    attribute: str
    elements: tuple[tuple[Dim, ...] | None, ...]
    """``None`` where an element is no size."""
    is_shape: bool = False
    """Whether -1 and 0 have the meaning they have in the target of a Reshape."""
    follows: tuple[Dim, ...] = ()
    """Further dimensions whose cut changes the elements: positions counted from the end."""


@dataclass(frozen=True, slots=True)
class Read:
    """An input that is summed over along an axis: zeros there are as good as absence."""

    node: ir.Node
    index: int
    axis: int


@dataclass(frozen=True, slots=True)
class Normed:
    """A node whose statistics run over dimensions of an input: absence is not the same as zeros."""

    node: ir.Node
    index: int
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """A ``Shape`` node: what it returns must not change, whatever is cut."""

    node: ir.Node
    dims: Dims


@dataclass(frozen=True, slots=True)
class Permuted:
    """A reshape, a transpose and a reshape that together permute the entries of one axis."""

    first: ir.Node
    last: ir.Node
    axis: int
    before: Dim
    after: Dim
    order: tuple[int, ...]
    """Entry ``i`` of the result is entry ``order[i]`` of what went in."""


@dataclass(frozen=True, slots=True)
class Balanced:
    """What a grouped convolution writes: all groups must shrink alike."""

    dim: Dim
    groups: Dim


@dataclass(frozen=True, slots=True)
class Frozen:
    """A float attribute whose default follows from ``dim``: written down when that is cut."""

    node: ir.Node
    attribute: str
    value: float
    dim: Dim


@dataclass(frozen=True, slots=True)
class Owned:
    """A role that an axis of a stored tensor plays for a node."""

    source: ir.Value
    dim: Dim
    role: Role
    node: ir.Node
    axis: int | None
    """``None`` where the tensor was reshaped on the way to the node: any axis with the dimension."""


@dataclass
class Flow:
    """State of one walk over a model."""

    ones: Size
    sizes: Mapping[ir.Value, tuple[Size, ...]]
    """Sizes of values that nodes compute, and of graph inputs; values of unknown shape are absent."""
    opset: int = 13
    dims: dict[ir.Value, Dims] = field(default_factory=dict[ir.Value, Dims])
    own: dict[tuple[ir.Node, int], Dims] = field(default_factory=dict[tuple[ir.Node, int], Dims])
    """Dimensions of stored vectors that several nodes share: they can be copied, so each use has its own."""
    sources: dict[ir.Value, tuple[ir.Value, ...]] = field(
        default_factory=dict[ir.Value, tuple[ir.Value, ...]]
    )
    """The stored tensors that a value computed from nothing else comes from."""
    sized: list[Sized] = field(default_factory=list[Sized])
    reads: list[Read] = field(default_factory=list[Read])
    normed: list[Normed] = field(default_factory=list[Normed])
    counted: list[Counted] = field(default_factory=list[Counted])
    permuted: list[Permuted] = field(default_factory=list[Permuted])
    balanced: list[Balanced] = field(default_factory=list[Balanced])
    done: set[ir.Node] = field(default_factory=set[ir.Node])
    """Nodes that the rule of an earlier node took along."""
    frozen: list[Frozen] = field(default_factory=list[Frozen])
    owned: list[Owned] = field(default_factory=list[Owned])

    def of(self, node: ir.Node, index: int) -> Dims:
        """The dimensions of an input.

        Raises:
            Refused: the input is left out, or its shape is unknown.

        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            raise Refused(f"{node.op_type} lacks input {index}")
        if (tensor := constant_tensor(value)) is not None:
            return self._stored(node, index, value, tuple(tensor.shape.numpy()))
        if value not in self.dims:
            raise Refused(f"the shape of '{value.name}' is not known")
        return self.dims[value]

    def maybe(self, node: ir.Node, index: int) -> Dims | None:
        """Like ``of``; ``None`` where an optional input is left out."""
        has = index < len(node.inputs) and node.inputs[index] is not None
        return self.of(node, index) if has else None

    def out(self, node: ir.Node, index: int = 0) -> tuple[Size, ...]:
        """The sizes of an output.

        Raises:
            Refused: they are unknown.

        """
        value = node.outputs[index]
        if value not in self.sizes:
            raise Refused(f"the shape of '{value.name}' is not known")
        return self.sizes[value]

    def give(self, node: ir.Node, dims: Sequence[Dim], index: int = 0) -> None:
        for dim in dims:
            if dim.size == self.ones and SINGLE in find(dim).marks:
                fix(dim, LONELY)
        self.dims[node.outputs[index]] = tuple(dims)

    def fixed(self, size: Size, reason: str) -> Dim:
        return leaf(size, reason)

    def one(self) -> Dim:
        return Dim(self.ones)

    def constant(self, number: int) -> Size:
        return (number,) * len(self.ones)

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Fix every dimension that a node touches; its outputs get fixed ones of their own."""
        for index, value in enumerate(node.inputs):
            if value is not None and (value in self.dims or constant_tensor(value) is not None):
                self._fix_all(self.of(node, index), reason)
        for value in node.outputs:
            if value in self.dims:
                self._fix_all(self.dims[value], reason)
            if value in self.sizes:
                self.dims[value] = tuple(leaf(size, reason) for size in self.sizes[value])

    def is_stored(self, node: ir.Node, index: int) -> bool:
        """Whether an input is stored, or computed from stored tensors alone."""
        value = node.inputs[index] if index < len(node.inputs) else None
        return value is not None and (constant_tensor(value) is not None or value in self.sources)

    def plays(self, node: ir.Node, index: int, dim: Dim, role: Role) -> None:
        """Note which role an axis of a stored input plays; computed inputs have none."""
        value = node.inputs[index]
        if value is None:
            return
        found = (value,) if constant_tensor(value) is not None else self.sources.get(value, ())
        for source in found:
            known = self.own.get((node, index)) if source is value else None
            dims = known if known is not None else self.dims.get(source, ())
            axis = next((axis for axis, each in enumerate(dims) if each is dim), None)
            self.owned.append(Owned(source, dim, role, node, axis))

    def contract(self, node: ir.Node, first: tuple[int, int], second: tuple[int, int]) -> None:
        """Two inputs are multiplied and summed over an axis each: (input, axis)."""
        for index, axis in (first, second):
            dim = self.of(node, index)[axis]
            self.plays(node, index, dim, "reads")
        unify(self.of(node, first[0])[first[1]], self.of(node, second[0])[second[1]])
        data = second if self.is_stored(node, first[0]) else first
        self.reads.append(Read(node, *data))

    def read_channels(self, node: ir.Node) -> None:
        """A grouped product reads the channels of its first input."""
        self.reads.append(Read(node, 0, 1))

    def norm(self, node: ir.Node, index: int, axes: Iterable[int]) -> None:
        found = tuple(axes)
        self.normed.append(Normed(node, index, found))
        for axis in found:
            mark(self.of(node, index)[axis], "normed")

    def norm_within(self, node: ir.Node, inner: Dim) -> None:
        """Statistics over the space and ``inner``, the part of the channels that lies in one group."""
        self.normed.append(Normed(node, 0, (1,)))
        mark(inner, "normed")

    def broadcast(self, shapes: Sequence[Dims], sizes: Sequence[Size]) -> list[Dim]:
        """The dimensions of a result of numpy broadcasting with the given sizes."""
        result: list[Dim] = []
        for axis in range(1, len(sizes) + 1):
            size = sizes[len(sizes) - axis]
            found = [dims[-axis] for dims in shapes if axis <= len(dims)]
            wide = [dim for dim in found if dim.size != self.ones]
            for dim in wide[1:]:
                unify(wide[0], dim)
            result.append(wide[0] if wide else Dim(size))
        return result[::-1]

    def _stored(self, node: ir.Node, index: int, value: ir.Value, shape: tuple[int, ...]) -> Dims:
        wide = sum(1 for size in shape if size > 1)
        if wide < SEVERAL and len(value.uses()) > 1:
            key = (node, index)
            return self.own.setdefault(key, tuple(leaf(self.constant(size)) for size in shape))
        return self.dims.setdefault(value, tuple(leaf(self.constant(size)) for size in shape))

    def _fix_all(self, dims: Dims, reason: str) -> None:
        for dim in dims:
            fix(dim, reason)


def ones_of(dims: Sequence[Dim]) -> list[Dim]:
    """Dimensions of size 1, as a reduction leaves them behind."""
    return [one_like(dim) for dim in dims]
