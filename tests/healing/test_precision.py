"""Products in half precision: only where the processor has units for it and the twin can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from adapass.budgeted import Samples
from adapass.graph.text import parse
from adapass.machine import Processor, read_processor

torch: Any = pytest.importorskip("torch", reason="torch is an extra")

from adapass.healing import precision, teacher  # noqa: E402
from adapass.healing.distill import distill  # noqa: E402
from adapass.healing.precision import can_mix  # noqa: E402
from adapass.healing.settings import Settings  # noqa: E402
from adapass.healing.teacher import Teacher  # noqa: E402


def with_units(monkeypatch: pytest.MonkeyPatch, units: tuple[str, ...]) -> None:
    def described() -> Processor:
        return replace(read_processor(), isa=units)

    monkeypatch.setattr(precision, "read_processor", described)


@pytest.mark.parametrize(
    ("units", "expected"), [(("amx_bf16", "avx512_bf16"), True), (("avx2",), False), ((), False)]
)
def test_the_processor_decides(
    original: ir.Model, monkeypatch: pytest.MonkeyPatch, units: tuple[str, ...], expected: bool
) -> None:
    with_units(monkeypatch, units)

    assert can_mix(original, {"x": np.ones((2, 8), np.float32)}, ("y",)) is expected


def test_values_out_of_range_decide_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_units(monkeypatch, ("amx_bf16", "avx512_bf16"))
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N, 2] x) => (float[N, 2] y)
        <float[2, 2] w = {3e38, 0.0, 0.0, 3e38}> { m = MatMul(x, w)
            y = Sub(m, m) }
        """
    )

    assert can_mix(model, {"x": np.ones((1, 2), np.float32)}, ("y",))
    assert not can_mix(model, {"x": np.full((1, 2), 9.0, np.float32)}, ("y",))


def test_mixed_training_heals_and_stores_single_precision(
    original: ir.Model, pruned: ir.Model, samples: Samples
) -> None:
    settings = Settings(block_epochs=0, steps=80, batch_size=16, rate=2e-2)
    mixed = distill(original, pruned, samples, settings=replace(settings, mixed=True))
    single = distill(original, pruned, samples, settings=replace(settings, mixed=False))

    assert mixed.after < 0.5 * mixed.before
    assert mixed.after != single.after
    weight = mixed.model.graph.initializers["a1"].const_value
    assert weight is not None
    assert weight.dtype == ir.DataType.FLOAT
    bits: Any = np.ascontiguousarray(weight.numpy()).view(np.uint32)
    assert (bits & 0xFFFF).any()  # not rounded to half the bits


def test_a_teacher_in_half_precision_says_nearly_the_same(
    original: ir.Model, monkeypatch: pytest.MonkeyPatch, samples: Samples
) -> None:
    with_units(monkeypatch, ("amx_bf16", "avx512_bf16"))
    feeds = samples.batch(range(32))

    exact = Teacher(original, ("y", "h1"), threads=1)
    mixed = Teacher(original, ("y", "h1"), threads=1, like=feeds)

    assert mixed.is_mixed
    assert not exact.is_mixed
    for name in ("y", "h1"):
        one: Any = exact.run(feeds)[name]
        other: Any = mixed.run(feeds)[name]
        assert other.dtype == np.float32
        assert (one != other).any()
        assert np.abs(one - other).max() < 0.03 * np.abs(one).max()


def test_a_teacher_that_half_precision_moves_too_far_stays_exact(
    original: ir.Model, monkeypatch: pytest.MonkeyPatch, samples: Samples
) -> None:
    with_units(monkeypatch, ("amx_bf16", "avx512_bf16"))
    monkeypatch.setattr(teacher, "CLOSE", 1e-5)

    assert not Teacher(original, ("y",), threads=1, like=samples.batch(range(8))).is_mixed
