"""What an import knows: values by node output, whole numbers of shapes, kernels, checks of indices.

A value is a numpy array (a constant), a :class:`Whole` (numbers of shapes, known or symbolic), or an
expression of Relax. Numbers of shapes stay outside the tensors, so that Shape, Gather, Concat and Reshape
become dimensions and not run-time work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.codegen.tvm.kernels.kernel import Kernel, Vectors
from adapass.codegen.tvm.kernels.maths import Expr
from adapass.codegen.tvm.library import compiler
from adapass.errors import ModelError

Objects: TypeAlias = npt.NDArray[Any]
MAX_WHOLE: Final = 1024
"""Numbers that are followed one by one; longer tensors are data, no shapes."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An int64 or int32 tensor whose entries are numbers or expressions of dimensions."""

    entries: Objects
    dtype: str = "int64"

    @property
    def fixed(self) -> bool:
        return all(isinstance(each, int) for each in self.entries.flat)


Value: TypeAlias = "Array | Whole | Any"


@dataclass
class Shared:
    """One import of one model."""

    builder: Any
    vectors: Vectors
    kernels: dict[str, tuple[Kernel, Any]] = field(default_factory=dict[str, tuple[Kernel, Any]])
    """By name, with the global variable of the module."""
    packed: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    """Weights as a kernel wants them, by the name of the weight and what was done."""
    sites: list[str] = field(default_factory=list[str])
    """What reads at indices; a run returns the number of the site that was left, from 1 on."""
    branches: int = 0


class Scope:
    """The main graph or one branch while it is imported."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.values: dict[ir.Value, Value] = {}
        self.faults: list[Any] = []
        self.dims: dict[str, Any] = {}
        """Symbolic dimensions of this function by name; TVM wants none of them in two functions."""

    @property
    def builder(self) -> Any:
        return self.shared.builder

    def value(self, of: ir.Value) -> Value:
        if of in self.values:
            return self.values[of]
        raise ModelError(f"value '{of.name}' is read before anything computes it")

    def constant(self, of: ir.Value | None) -> Array | None:
        found = None if of is None else self.values.get(of)
        if isinstance(found, Whole) and found.fixed:
            return found.entries.astype(found.dtype)
        return found if is_array(found) else None

    def whole(self, of: ir.Value | None) -> Whole | None:
        found = None if of is None else self.values.get(of)
        if isinstance(found, Whole):
            return found
        if not is_array(found) or found.dtype.kind not in "iu" or found.size > MAX_WHOLE:
            return None
        numbers = [int(each) for each in found.flat]
        entries = np.empty(len(numbers), object)
        entries[:] = numbers
        return Whole(entries.reshape(found.shape), found.dtype.name)

    def tensor(self, of: ir.Value) -> Any:
        """The value as an expression of Relax."""
        return self.as_tensor(self.value(of))

    def as_tensor(self, found: Value) -> Any:
        relax = compiler("tvm.relax")
        if isinstance(found, Whole) and found.fixed:
            return relax.const(found.entries.astype(found.dtype))
        if isinstance(found, Whole):
            return self._computed(found)
        if is_array(found):
            return relax.const(np.ascontiguousarray(found).reshape(found.shape), found.dtype.name)
        return found

    def emit(self, expression: Any) -> Any:
        return self.builder.emit(expression)

    def te(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        return self.builder.emit_te(compute, *arguments)

    def te_apart(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """The same, kept out of fusion: an argument would be copied once for each of its uses."""
        return self.builder.emit_te(compute, *arguments, primfunc_attrs={"op_pattern": 8})

    def call(self, kernel: Kernel, arguments: Sequence[Any], shape: Sequence[Expr]) -> Any:
        """Emit a call of a kernel with a float32 result of ``shape``."""
        relax = compiler("tvm.relax")
        if kernel.name not in self.shared.kernels:
            variable = self.builder.add_func(kernel.function, kernel.name)
            self.shared.kernels[kernel.name] = (kernel, variable)
        variable = self.shared.kernels[kernel.name][1]
        result = relax.TensorType(list(shape), "float32")
        return self.emit(relax.call_tir(variable, list(arguments), out_ty=result))

    def reshape(self, expression: Any, shape: Sequence[Expr]) -> Any:
        if equal_shapes(shape_of(expression), shape):
            return expression
        relax = compiler("tvm.relax")
        return self.emit(relax.op.reshape(expression, relax.ShapeExpr(list(shape))))

    def _computed(self, found: Whole) -> Any:
        te, tirx = compiler("tvm.te"), compiler("tvm.tirx")
        strides = [int(np.prod(found.entries.shape[i + 1 :])) for i in range(found.entries.ndim)]

        def compute(numbers: Sequence[Expr]) -> Any:
            flat = [tirx.Cast(found.dtype, wrapped(each)) for each in numbers]

            def entry(*at: Any) -> Any:
                place = wrapped(0)
                for index, stride in zip(at, strides, strict=True):
                    place = place + index * stride
                chosen = flat[-1]
                for number, each in list(enumerate(flat))[-2::-1]:
                    chosen = tirx.Select(place < number + 1, each, chosen)
                return chosen

            return te.compute(found.entries.shape, entry, name="sizes")

        return self.te(compute, list(found.entries.flat))


def is_array(found: object) -> TypeGuard[Array]:
    return isinstance(found, np.ndarray)


def wrapped(number: Expr) -> Expr:
    """As an int64 expression."""
    return compiler("tvm.tirx").const(number, "int64") if isinstance(number, int) else number


def simplified(number: Expr) -> Expr:
    """A Python int where it is one."""
    if isinstance(number, int):
        return number
    found = compiler("tvm.sym").Analyzer().simplify(number)
    value = getattr(found, "value", None)
    return int(value) if isinstance(value, int) else found


def shape_of(expression: Any) -> tuple[Expr, ...]:
    """Raises ``ModelError`` where TVM does not know the dimensions before a run."""
    shape = getattr(expression.ty, "shape", None)
    values = getattr(shape, "values", None)
    if values is None:
        raise ModelError("the shape of a value is known only when the model runs")
    return tuple(simplified(each) for each in values)


def substituted(number: Expr, new: Mapping[Any, Any]) -> Expr:
    if isinstance(number, int):
        return number

    def renamed(variable: Any) -> Any:
        return new.get(variable, variable)

    rule = (compiler("tvm.ir").Var, renamed)
    return simplified(compiler("tvm_ffi").structural_map(number, rule, order="post"))


def equal(a: Expr, b: Expr) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return bool(compiler("tvm.sym").Analyzer().can_prove_equal(wrapped(a), wrapped(b)))


def equal_shapes(a: Sequence[Expr], b: Sequence[Expr]) -> bool:
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def product_of(sizes: Sequence[Expr]) -> Expr:
    found: Expr = 1
    for each in sizes:
        found = found * each
    return simplified(found)


def dtype_of(expression: Any) -> str:
    """The element type of an expression of Relax, as numpy names it."""
    return str(expression.ty.dtype)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    return default if found is None else found.value
