"""Schedules for what is not a kernel of adapass, and the refusal of heavy loops that got none.

Everything elementwise is inlined into one loop nest whose outer axes run in parallel; its inner axis is
vectorised where its size is known, else left to LLVM, which vectorises what is contiguous. Reductions run
their outer axes in parallel and, where an axis of the result is innermost, that one in vectors.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from adapass.codegen.tvm.library import compiler
from adapass.errors import ModelError

logger = logging.getLogger(__name__)

SYMBOLIC_SIZE: Final = 32
"""What a dimension that is open counts as when work is weighed."""
HEAVY: Final = 1 << 21
"""Inner steps from which a loop nest without a schedule is refused: about a millisecond of scalar code."""
SMALL: Final = 1 << 13
"""Inner steps below which waking another thread costs more than it brings."""
_WIDEST: Final = 64


def schedule(module: Any, lanes: int) -> Any:
    """The module with every function scheduled that is not a kernel already."""
    tirx = compiler("tvm.tirx")
    for variable, function in list(module.functions.items()):
        if isinstance(function, tirx.PrimFunc) and not _handmade(function):
            module.update_func(variable, _scheduled(function, lanes))
    return module


def refuse_unscheduled(module: Any) -> None:
    """Raises ``ModelError`` naming every function with heavy loops that run on one core, number by number."""
    tirx = compiler("tvm.tirx")
    slow: list[str] = []
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            work, parallel = weigh(function)
            if work >= HEAVY and not parallel:
                slow.append(f"{variable.name_hint} ({work:.2g} steps)")
    if slow:
        raise ModelError(
            f"TVM has no schedule for {', '.join(sorted(slow))}: it would run number by number on one core;"
            " use another backend"
        )


def weigh(function: Any) -> tuple[float, bool]:
    """Inner steps of the loops of a function, and whether all heavy nests are parallel or vectorised."""
    tirx = compiler("tvm.tirx")
    kinds = compiler("tvm.tirx").ForKind
    worst = 0.0
    good = True

    def visit(statement: Any, steps: float, scheduled: bool) -> None:
        nonlocal worst, good
        if isinstance(statement, tirx.For):
            steps *= _extent(statement.extent)
            scheduled = scheduled or statement.kind in (kinds.PARALLEL, kinds.VECTORIZED)
            visit(statement.body, steps, scheduled)
            return
        if isinstance(statement, tirx.BufferStore):
            worst = max(worst, steps)
            good = good and (scheduled or steps < HEAVY)
            return
        for child in _children(statement):
            visit(child, steps, scheduled)

    visit(function.body, 1.0, False)
    return worst, good


def _children(statement: Any) -> list[Any]:
    """Statements directly inside one that is no loop."""
    found: list[Any] = []
    for name in ("block", "body", "init", "then_case", "else_case"):
        child = getattr(statement, name, None)
        if child is not None:
            found.append(child)
    sequence = getattr(statement, "seq", None)
    return found + (list(sequence) if sequence is not None else [])


def _extent(extent: Any) -> float:
    value = getattr(extent, "value", None)
    return float(value) if isinstance(value, int) else float(SYMBOLIC_SIZE)


def _handmade(function: Any) -> bool:
    return bool(function.attrs is not None and "adapass.kernel" in function.attrs)


def _scheduled(function: Any, lanes: int) -> Any:
    plan = compiler("tvm.s_tir").Schedule(function)
    root = plan.get_sblock("root") if _has_root(plan) else None
    if root is None:
        return function
    _inline(plan, root)
    for block in plan.get_child_blocks(root):
        try:
            _spread(plan, block, lanes)
        except compiler("tvm.s_tir").ScheduleError as error:  # then it stays as it is, and is weighed
            logger.debug("a block has no schedule: %s", error)
    return plan.mod["main"]


def _has_root(plan: Any) -> bool:
    try:
        plan.get_sblock("root")
    except Exception:  # a function without blocks, which schedules cannot touch
        return False
    return True


def _inline(plan: Any, root: Any) -> None:
    """Elementwise blocks into their readers, then into what they read."""
    errors = compiler("tvm.s_tir").ScheduleError
    for inline in (plan.compute_inline, plan.reverse_compute_inline):
        for block in plan.get_child_blocks(root):
            if not _kinds(plan, block) <= {"S"} or (
                inline == plan.reverse_compute_inline and _after_sum(plan, block)
            ):
                continue
            try:
                inline(block)
            except errors:  # it is an output, or is read in a way that needs it stored
                continue


def _after_sum(plan: Any, block: Any) -> bool:
    return any("R" in _kinds(plan, each) for each in plan.get_producers(block))


def _kinds(plan: Any, block: Any) -> set[str]:
    """S for axes of the result, R for sums, O for anything else."""
    variables = compiler("tvm.tirx").IterVar
    names = {variables.DataPar: "S", variables.CommReduce: "R"}
    return {names.get(each.iter_type, "O") for each in plan.get(block).iter_vars}


def _spread(plan: Any, block: Any, lanes: int) -> None:
    loops = list(plan.get_loops(block))
    iterations = list(plan.get(block).iter_vars)
    kinds = _kinds(plan, block)
    if "O" in kinds or len(loops) != len(iterations) or not loops:
        return
    variables = compiler("tvm.tirx").IterVar
    outer = [loop for loop, it in zip(loops, iterations, strict=True) if it.iter_type == variables.DataPar]
    inner = [loop for loop, it in zip(loops, iterations, strict=True) if it.iter_type != variables.DataPar]
    steps = 1.0
    for loop in loops:
        steps *= _extent(plan.get(loop).extent)
    if not outer or steps < SMALL:
        return
    last = outer[-1]
    size = getattr(plan.get(last).extent, "value", None)
    wide = next((w for w in (_WIDEST, lanes) if isinstance(size, int) and size % w == 0), None)
    if wide is None and len(outer) == 1:
        plan.parallel(last)
        return
    if wide is None:
        plan.reorder(*outer[:-1], *inner) if inner else None
        plan.parallel(plan.fuse(*outer[:-1]))
        return
    split, vector = plan.split(last, [None, wide])
    if inner:
        plan.reorder(*outer[:-1], split, *inner, vector)
    task = plan.fuse(*outer[:-1], split)
    plan.parallel(task)
    if inner:
        plan.decompose_reduction(block, plan.get_loops(block)[1])
        plan.vectorize(plan.get_loops(block)[-1])
    else:
        plan.vectorize(vector)
