"""Recurrent cells with their default activations, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from adapass.errors import ModelError
from adapass.twin.torch_import import Tensor, torch

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]


@dataclass(frozen=True, slots=True)
class _Call:
    """What the three operators share."""

    x: Tensor
    lengths: Tensor | None
    hidden_size: int
    direction: str
    layout: int
    outputs: int

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1


def _run(call: _Call, starts: Sequence[Tensor | None], step_of: Callable[[int], Step]) -> Tensor:
    """Y and the last states; ``step_of`` gives the cell of a direction."""
    x = call.x.transpose(0, 1) if call.layout else call.x
    steps, batch = x.shape[:2]
    lengths = torch.full((batch,), steps) if call.lengths is None else call.lengths
    states = [_start(call, start, batch, x.dtype) for start in starts]
    ways: list[Tensor] = []
    lasts: list[State] = []
    for way in range(call.directions):
        backwards = call.direction == "reverse" or way == 1
        y, last = _one_way(x, lengths, tuple(s[way] for s in states), step_of(way), backwards=backwards)
        ways.append(y)
        lasts.append(last)
    y = torch.stack(ways, 1)
    final = [torch.stack(parts) for parts in zip(*lasts, strict=True)]
    if call.layout:
        y, final = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in final]
    every = (y, *final)
    return every[: call.outputs] if call.outputs > 1 else y


def _one_way(
    x: Tensor, lengths: Tensor, state: State, step: Step, *, backwards: bool
) -> tuple[Tensor, State]:
    count = x.shape[0]
    rows: list[Tensor] = [x] * count
    for t in reversed(range(count)) if backwards else range(count):
        alive = (t < lengths).unsqueeze(1)
        state = tuple(torch.where(alive, n, o) for n, o in zip(step(x[t], state), state, strict=True))
        rows[t] = torch.where(alive, state[0], torch.zeros_like(state[0]))
    return torch.stack(rows), state


def _start(call: _Call, start: Tensor | None, batch: int, dtype: Tensor) -> Tensor:
    if start is None:
        return torch.zeros(call.directions, batch, call.hidden_size, dtype=dtype)
    return start.transpose(0, 1) if call.layout else start


def _require_default(op: str, activations: Sequence[str] | None, expected: Sequence[str]) -> None:
    if activations is not None and any(a not in expected for a in activations):
        raise ModelError(f"{op} with activations {list(activations)} has no twin; {list(expected)} expected")


def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    hidden_size: int,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    layout: int = 0,
    outputs: int = 1,
) -> Tensor:
    _require_default("RNN", activations, ("Tanh",))

    def step_of(way: int) -> Step:
        bias = 0 if b is None else b[way, :hidden_size] + b[way, hidden_size:]
        return lambda now, state: (torch.tanh(now @ w[way].t() + state[0] @ r[way].t() + bias),)

    return _run(_Call(x, sequence_lens, hidden_size, direction, layout, outputs), [initial_h], step_of)


def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    hidden_size: int,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int = 1,
) -> Tensor:
    _require_default("GRU", activations, ("Sigmoid", "Tanh"))
    n = hidden_size

    def step_of(way: int) -> Step:
        wb, rb = torch.zeros(2, 3 * n, dtype=x.dtype) if b is None else b[way].chunk(2)

        def step(now: Tensor, state: State) -> State:
            hidden = state[0]
            inputs = now @ w[way].t() + wb
            before = hidden @ r[way, : 2 * n].t() + rb[: 2 * n]
            z, reset = torch.sigmoid(inputs[:, : 2 * n] + before).chunk(2, -1)
            last = rb[2 * n :]
            if linear_before_reset:
                inner = reset * (hidden @ r[way, 2 * n :].t() + last)
            else:
                inner = (reset * hidden) @ r[way, 2 * n :].t() + last
            return ((1 - z) * torch.tanh(inputs[:, 2 * n :] + inner) + z * hidden,)

        return step

    return _run(_Call(x, sequence_lens, n, direction, layout, outputs), [initial_h], step_of)


def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    hidden_size: int,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    input_forget: int = 0,
    layout: int = 0,
    outputs: int = 1,
) -> Tensor:
    _require_default("LSTM", activations, ("Sigmoid", "Tanh"))
    n = hidden_size

    def step_of(way: int) -> Step:
        bias = 0 if b is None else b[way, : 4 * n] + b[way, 4 * n :]
        peep = torch.zeros(3 * n, dtype=x.dtype) if p is None else p[way]

        def step(now: Tensor, state: State) -> State:
            hidden, cell = state
            i, o, f, c = (now @ w[way].t() + hidden @ r[way].t() + bias).chunk(4, -1)
            i = torch.sigmoid(i + peep[:n] * cell)
            f = 1 - i if input_forget else torch.sigmoid(f + peep[2 * n :] * cell)
            cell = f * cell + i * torch.tanh(c)
            return torch.sigmoid(o + peep[n : 2 * n] * cell) * torch.tanh(cell), cell

        return step

    call = _Call(x, sequence_lens, n, direction, layout, outputs)
    return _run(call, [initial_h, initial_c], step_of)


OPERATORS: Final[Mapping[str, Callable[..., Tensor]]] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
