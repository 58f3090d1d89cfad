from __future__ import annotations

import onnx_ir as ir
import pytest

TEXT_MODEL = """
<ir_version: 10, opset_import: ["" : 20]>
encoder (
    int64[batch,seq] ids, int64[batch,seq] attention_mask, float[batch,1,seq,seq] bias, float[batch,4] image
) => (float[batch,3] logits)
{
    masked = Mul(ids, attention_mask)
    numbers = Cast<to = 1>(masked)
    axes = Constant<value_ints = [1]>()
    total = ReduceSum<keepdims = 1>(numbers, axes)
    inner = Constant<value_ints = [1, 2, 3]>()
    extra = ReduceSum<keepdims = 0>(bias, inner)
    column = Unsqueeze(extra, axes)
    both = Add(total, column)
    shift = ReduceSum<keepdims = 1>(image, axes)
    one = Add(both, shift)
    logits = Concat<axis = 1>(one, one, one)
}
"""


@pytest.fixture
def text_model() -> ir.Model:
    """Ids and a mask of a dynamic length, a bias that has the length twice, and an input without it."""
    return ir.from_onnx_text(TEXT_MODEL)
