"""From a model of standard operators to a module of Relax: own conversions first, then those of TVM.

Branches of ``If`` become private functions that are called inside the branch. (TVM's own importer puts the
operators of both branches in front of the ``If``, so that nothing is saved.)
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from adapass.budgeted import Array
from adapass.codegen.tvm.chains import Chain, chains, constant_values
from adapass.codegen.tvm.constants import folded_outputs
from adapass.codegen.tvm.foreign import convert as convert_foreign
from adapass.codegen.tvm.indices import fault, must_equal
from adapass.codegen.tvm.kernels.kernel import Kernel, Vectors
from adapass.codegen.tvm.library import compiler
from adapass.codegen.tvm.operators import OPERATORS
from adapass.codegen.tvm.products import convert_chain
from adapass.codegen.tvm.scope import Scope, Shared, Whole, dtype_of, is_array, shape_of, substituted
from adapass.codegen.tvm.whole import follow
from adapass.errors import ModelError
from adapass.graph.shapes import infer_shapes


@dataclass(frozen=True, slots=True)
class Imported:
    """A module whose ``main`` takes the inputs and gives the outputs, then the number of a wrong index."""

    module: Any
    kernels: Mapping[str, Kernel]
    sites: tuple[str, ...]
    sizes: Mapping[str, tuple[int | str, ...]]
    """Outputs that hold sizes, as numbers and names of dimensions: a later stage takes them by name."""


def import_model(
    model: ir.Model, vectors: Vectors, sizes: Mapping[str, tuple[int | str, ...]] | None = None
) -> Imported:
    """``sizes``: inputs that hold sizes, as an earlier stage gave them.

    Raises:
        ModelError: an operator has no conversion; the message names it.

    """
    copy = model.clone()
    infer_shapes(copy)
    builder = compiler("tvm.relax").BlockBuilder()
    shared = Shared(builder, vectors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main = _Main(shared, copy, dict(sizes or {}))
        main.run()
        module = builder.get()
    kernels = {name: kernel for name, (kernel, _) in shared.kernels.items()}
    return Imported(module, kernels, tuple(shared.sites), main.sizes())


class _Main:
    """The main graph."""

    def __init__(self, shared: Shared, model: ir.Model, known: Mapping[str, tuple[int | str, ...]]) -> None:
        self.scope = Scope(shared)
        self.model = model
        self.known = known
        self.opset = int(model.opset_imports.get("", 1))

    def run(self) -> None:
        relax = compiler("tvm.relax")
        scope, graph, builder = self.scope, self.model.graph, self.scope.builder
        inputs = [self._input(index, value) for index, value in enumerate(graph.inputs)]
        with builder.function("main", inputs):
            for value, tensor in zip(graph.inputs, inputs, strict=True):
                self._take_sizes(value, tensor)
            importer = _Graph(scope, graph, self.opset, frozenset())
            importer.run()
            outputs = [importer.output(value) for value in graph.outputs]
            result = scope.emit(relax.Tuple([*outputs, fault(scope)]))
            builder.emit_func_output(result)

    def sizes(self) -> dict[str, tuple[int | str, ...]]:
        names = {dim: name for name, dim in self.scope.dims.items()}
        found: dict[str, tuple[int | str, ...]] = {}
        for value in self.model.graph.outputs:
            whole = self.scope.values.get(value)
            if not isinstance(whole, Whole):
                continue
            entries = [each if isinstance(each, int) else names.get(each) for each in whole.entries.flat]
            if whole.entries.ndim == 1 and None not in entries:
                found[value.name or ""] = tuple(each for each in entries if each is not None)
        return found

    def _take_sizes(self, value: ir.Value, tensor: Any) -> None:
        """An input that is known to hold sizes becomes those; a run with others is reported."""
        known = self.known.get(value.name or "")
        if known is None or any(isinstance(each, str) and each not in self.scope.dims for each in known):
            return
        numbers = [self.scope.dims[each] if isinstance(each, str) else each for each in known]
        entries = np.empty(len(numbers), object)
        entries[:] = numbers
        self.scope.values[value] = Whole(entries, _dtype(value))
        must_equal(self.scope, value.name or "", tensor, numbers)

    def _input(self, index: int, value: ir.Value) -> Any:
        relax = compiler("tvm.relax")
        if value.shape is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
            raise ModelError(f"input '{value.name}' has no known rank or type")
        shape = [self._dim(dim, f"{index}_{axis}") for axis, dim in enumerate(value.shape)]
        made = relax.Var(f"input{index}", relax.TensorType(shape, _dtype(value)))
        self.scope.values[value] = made
        return made

    def _dim(self, dim: int | ir.SymbolicDim, place: str) -> Any:
        if isinstance(dim, int):
            return dim
        name = dim.value or f"open {place}"
        dims = self.scope.dims
        return dims.setdefault(name, compiler("tvm.tirx").Var(f"d{len(dims)}", "int64"))


class _Graph:
    """The nodes of one graph, in a scope whose outer values are there."""

    def __init__(
        self, scope: Scope, graph: ir.Graph, opset: int, outer_constants: frozenset[ir.Value]
    ) -> None:
        self.scope, self.graph, self.opset = scope, graph, opset
        self.constants = constant_values(graph, outer_constants)
        self.chains = chains(graph, self.constants)
        self.held = {step.node: chain for chain in self.chains.values() for step in chain.steps} | {
            chain.root: chain for chain in self.chains.values()
        }

    def run(self) -> None:
        for value in self.graph.initializers.values():
            if not value.is_graph_input():
                self.scope.values[value] = _array(value)
        for node in self.graph:
            if (chain := self.held.get(node)) is None:
                self._convert(node)
            elif chain.last is node:
                self._chain(chain)

    def output(self, value: ir.Value) -> Any:
        """An output as a tensor of its own."""
        found = self.scope.tensor(value)
        relax = compiler("tvm.relax")
        return found if isinstance(found, relax.Var) else self.scope.emit(relax.op.add(found, found * 0))

    def _chain(self, chain: Chain) -> None:
        found = self._guard(chain.root, lambda: convert_chain(self.scope, chain))
        if found is not None:
            self.scope.values[chain.last.outputs[0]] = found
            return
        for node in (chain.root, *(step.node for step in chain.steps)):
            self._convert(node)

    def _convert(self, node: ir.Node) -> None:
        if node.domain:
            raise ModelError(f"TVM has no operator {node.domain}.{node.op_type}")
        if node.op_type == "If":
            self._branch(node)
            return
        if (folded := folded_outputs(self.scope, node, self.opset)) is not None:
            for value, array in zip(node.outputs, folded, strict=False):
                self.scope.values[value] = array
            return
        if (whole := follow(self.scope, node)) is not None:
            self.scope.values[node.outputs[0]] = whole
            return
        own = OPERATORS.get(node.op_type)
        found = None if own is None else self._guard(node, lambda: own(self.scope, node))
        if found is None:
            results = self._guard(node, lambda: convert_foreign(self.scope, node, self.opset))
        else:
            results = [found]
        for value, result in zip(node.outputs, results, strict=False):
            self.scope.values[value] = self._bound(result)

    def _bound(self, result: Any) -> Any:
        if isinstance(result, Whole) or is_array(result):
            return result
        relax = compiler("tvm.relax")
        return result if isinstance(result, relax.Var) else self.scope.emit(result)

    def _guard(self, node: ir.Node, convert: Any) -> Any:
        """Foreign errors become one that names the operator."""
        try:
            return convert()
        except ModelError as error:
            raise ModelError(f"TVM does not take {_named(node)}: {error}") from error
        except Exception as error:  # TVM has no public base class for its errors
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = lines[-1] if lines else type(error).__name__
            raise ModelError(f"TVM does not take {_named(node)}: {said}") from error

    def _branch(self, node: ir.Node) -> None:
        relax = compiler("tvm.relax")
        scope = self.scope
        condition = node.inputs[0]
        assert condition is not None
        test = scope.reshape(scope.tensor(condition), ())
        sides = [self._function(node.attributes[f"{name}_branch"].as_graph()) for name in ("then", "else")]
        chosen = scope.emit(relax.If(test, *(relax.SeqExpr([], call) for call in sides)))
        count = len(node.outputs)
        for index, value in enumerate(node.outputs):
            found = scope.emit(relax.TupleGetItem(chosen, index))
            shape = self._joined(found, value)
            scope.values[value] = found if shape is None else shape
        scope.faults.append(scope.emit(relax.TupleGetItem(chosen, count)))

    def _joined(self, found: Any, value: ir.Value) -> Any | None:
        """The result with the shape the model states, where the branches differ in what TVM knows."""
        relax = compiler("tvm.relax")
        try:
            shape_of(found)
        except ModelError:
            pass
        else:
            return None
        if value.shape is None:
            return None
        dims = self.scope.dims
        shape = [dim if isinstance(dim, int) else dims.get(dim.value or "", None) for dim in value.shape]
        fresh = [
            compiler("tvm.tirx").Var(f"j{len(dims)}_{axis}", "int64") if dim is None else dim
            for axis, dim in enumerate(shape)
        ]
        for dim in fresh:
            if not isinstance(dim, int) and dim.name not in dims:
                dims[dim.name] = dim
        return self.scope.builder.match_cast(found, relax.TensorType(fresh, _dtype(value)))

    def _function(self, graph: ir.Graph) -> Any:
        """A private function for one branch; the result is the call that goes into the branch."""
        relax = compiler("tvm.relax")
        scope, shared = self.scope, self.scope.shared
        shared.branches += 1
        inner = Scope(shared)
        taken = [value for value in _outside(graph) if value in scope.values]
        tensors: list[tuple[ir.Value, Any]] = []
        for value in taken:
            found = scope.values[value]
            if isinstance(found, relax.Var):
                tensors.append((value, found))
            elif not isinstance(found, Whole):
                inner.values[value] = found
        dims = list(scope.dims.values())
        inner.dims = {name: compiler("tvm.tirx").Var(dim.name, "int64") for name, dim in scope.dims.items()}
        new = dict(zip(dims, inner.dims.values(), strict=True))
        params = [relax.Var(f"outer{i}", _renamed(found, new)) for i, (_, found) in enumerate(tensors)]
        inner.values |= {value: param for (value, _), param in zip(tensors, params, strict=True)}
        sizes = relax.Var("sizes", relax.ShapeType(values=list(inner.dims.values())))
        for value in taken:
            if isinstance(found := scope.values[value], Whole):
                entries = np.empty(found.entries.shape, object)
                for place in np.ndindex(entries.shape):
                    entries[place] = substituted(found.entries[place], new)
                inner.values[value] = Whole(entries, found.dtype)
        with shared.builder.function(f"branch{shared.branches}", [*params, sizes], private=True):
            outer = frozenset(value for value in taken if value in self.constants)
            branch = _Graph(inner, graph, self.opset, outer)
            branch.run()
            outputs = [branch.output(value) for value in graph.outputs]
            made = shared.builder.emit_func_output(inner.emit(relax.Tuple([*outputs, fault(inner)])))
        return relax.Call(made, [*(found for _, found in tensors), relax.ShapeExpr(dims)])


def _renamed(expression: Any, new: Mapping[Any, Any]) -> Any:
    """The type of a value with the dimensions of another function."""
    relax = compiler("tvm.relax")
    values = getattr(getattr(expression.ty, "shape", None), "values", None)
    if values is None:
        return expression.ty
    return relax.TensorType([substituted(each, new) for each in values], dtype_of(expression))


def _outside(graph: ir.Graph) -> list[ir.Value]:
    """Values of enclosing graphs that ``graph`` reads, in order."""
    own = {value for node in ir.traversal.RecursiveGraphIterator(graph) for value in node.outputs}
    own |= set(graph.initializers.values())
    found: dict[ir.Value, None] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        found.update({value: None for value in node.inputs if value is not None and value not in own})
    found.update({value: None for value in graph.outputs if value not in own})
    return list(found)


def _array(value: ir.Value) -> Array:
    tensor = value.const_value
    if tensor is None:
        raise ModelError(f"initializer '{value.name}' has no data")
    return np.asarray(tensor.numpy())


def _dtype(value: ir.Value) -> str:
    if value.dtype is None:
        raise ModelError(f"the type of '{value.name}' is not known")
    return str(value.dtype.numpy().name)


def _named(node: ir.Node) -> str:
    return f"operator {node.op_type} ('{node.outputs[0].name}')"
