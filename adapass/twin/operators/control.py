"""Control flow: the branches and bodies are graph modules of their own, run as often as the data says."""

from __future__ import annotations

from collections.abc import Sequence

from adapass.twin.torch_import import Tensor, torch


def run_if(
    condition: Tensor, then: Tensor, otherwise: Tensor, captured: tuple[Sequence[Tensor], ...]
) -> Tensor:
    """Only the branch taken is computed; ``captured`` holds what each reads from around it."""
    branch, values = (then, captured[0]) if bool(condition.reshape(()).item()) else (otherwise, captured[1])
    results = branch(*values)
    return results if len(results) > 1 else results[0]


def run_loop(
    trips: Tensor | None,
    condition: Tensor | None,
    body: Tensor,
    carried: Sequence[Tensor],
    captured: Sequence[Tensor],
) -> Tensor:
    """Carried values at the end, then what each round put out, stacked."""
    limit = None if trips is None else int(trips.reshape(()).item())
    going = True if condition is None else bool(condition.reshape(()).item())
    state = tuple(carried)
    scans: list[Sequence[Tensor]] = []
    count = 0
    while going and (limit is None or count < limit):
        results = body(torch.tensor(count), torch.tensor(going), *state, *captured)
        going = bool(results[0].reshape(()).item())
        state, scans = results[1 : 1 + len(state)], [*scans, results[1 + len(state) :]]
        count += 1
    stacked = [torch.stack(column) for column in zip(*scans, strict=True)]
    every: list[Tensor] = [*state, *stacked]
    return tuple(every) if len(every) > 1 else every[0]


def run_scan(
    body: Tensor,
    states: Sequence[Tensor],
    scanned: Sequence[Tensor],
    captured: Sequence[Tensor],
    reverse: Sequence[int],
    axes: Sequence[int],
    out_reverse: Sequence[int],
    out_axes: Sequence[int],
) -> Tensor:
    """The body once for each slice of the scanned inputs."""
    columns = [
        list(reversed(x.unbind(axis))) if back else list(x.unbind(axis))
        for x, axis, back in zip(scanned, axes, reverse, strict=True)
    ]
    state = tuple(states)
    rows: list[Sequence[Tensor]] = []
    for parts in zip(*columns, strict=True):
        results = body(*state, *parts, *captured)
        state, rows = results[: len(state)], [*rows, results[len(state) :]]
    stacked = [
        torch.stack(list(reversed(column)) if back else list(column), axis)
        for column, axis, back in zip(zip(*rows, strict=True), out_axes, out_reverse, strict=True)
    ]
    every: list[Tensor] = [*state, *stacked]
    return tuple(every) if len(every) > 1 else every[0]
