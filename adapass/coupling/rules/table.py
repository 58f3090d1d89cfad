"""Which rule follows which operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx_ir as ir

from adapass.coupling.flow import Flow
from adapass.coupling.rules import (
    attention,
    convolutions,
    elementwise,
    lookups,
    norms,
    pieces,
    products,
    quantized,
    recurrent,
    shapes,
)
from adapass.graph.broadcasting import BROADCASTING
from adapass.ops import DOMAIN, EXIT_SELECT

Rule = Callable[[Flow, ir.Node], None]
Key = tuple[str, str]
"""Domain and operator."""

SAME = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]
LAYER_NORMS = ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"]
POOLS = ["AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]


def _standard() -> dict[str, Rule]:
    return {
        **dict.fromkeys(SAME, elementwise.same),
        **dict.fromkeys(BROADCASTING, elementwise.broadcast),
        **dict.fromkeys(REDUCTIONS, norms.reduce),
        **dict.fromkeys(POOLS, convolutions.pool),
        **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), shapes.view),
        **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), norms.along),
        **dict.fromkeys(("ArgMax", "ArgMin"), norms.arg),
        **dict.fromkeys(LAYER_NORMS, norms.layer_norm),
        **dict.fromkeys(("Range", "NonZero", "EyeLike"), shapes.counting),
        **dict.fromkeys(("Resize", "Upsample"), convolutions.resize),
        **dict.fromkeys(("Conv", "ConvInteger"), convolutions.conv),
        **dict.fromkeys(("LSTM", "GRU", "RNN"), recurrent.recurrent),
        **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), quantized.linear),
        "Attention": attention.attention,
        "BatchNormalization": norms.batch_norm,
        "Col2Im": convolutions.fold,
        "Concat": pieces.concat,
        "ConstantOfShape": shapes.constant_of_shape,
        "ConvTranspose": convolutions.conv_transpose,
        "CumSum": norms.cumulative,
        "DynamicQuantizeLinear": quantized.dynamic,
        "DepthToSpace": convolutions.depth_to_space,
        "Einsum": products.einsum,
        "Expand": shapes.expand,
        "Gather": lookups.gather,
        "GatherElements": lookups.gather_elements,
        "GatherND": lookups.gather_nd,
        "Gemm": products.gemm,
        "GroupNormalization": norms.group_norm,
        "InstanceNormalization": norms.instance_norm,
        "LRN": convolutions.local_response,
        "LpNormalization": norms.lp_norm,
        "MatMul": products.matmul,
        "MatMulInteger": products.matmul_integer,
        "MeanVarianceNormalization": norms.mean_variance,
        "OneHot": elementwise.one_hot,
        "Pad": pieces.pad,
        "QLinearConv": quantized.qlinear_conv,
        "RotaryEmbedding": attention.rotary,
        "Reshape": shapes.reshape,
        "Shape": shapes.shape,
        "Slice": pieces.slice_node,
        "SpaceToDepth": convolutions.space_to_depth,
        "Split": pieces.split_node,
        "Tile": shapes.tile,
        "TopK": norms.top,
        "Transpose": shapes.transpose,
        "Trilu": norms.triangle,
    }  # fmt: skip


RULES: Mapping[Key, Rule] = MappingProxyType(
    {
        **{("", name): rule for name, rule in _standard().items()},
        (DOMAIN, EXIT_SELECT): elementwise.exit_select,
    }
)


def rule_of(node: ir.Node) -> Rule | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return RULES.get((domain, node.op_type))
