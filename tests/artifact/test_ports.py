from __future__ import annotations

import onnx
import onnx_ir as ir

from adapass.artifact import Port, model_ports


def test_states_types_symbolic_sizes_and_defaults() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            """
            <ir_version: 10, opset_import: ["" : 18]>
            g (int64[N, T] ids, float[1] t, float16[?, 4] h) => (float[N] y, bool z)
            <float[1] t = {0.5}>
            { y = Identity(t) z = Identity(t) }
            """
        )
    )

    inputs, outputs = model_ports(model)

    assert inputs == (
        Port(name="ids", dtype="int64", shape=("N", "T")),
        Port(name="t", dtype="float32", shape=(1,), optional=True),
        Port(name="h", dtype="float16", shape=(None, 4)),
    )
    assert outputs == (
        Port(name="y", dtype="float32", shape=("N",)),
        Port(name="z", dtype="bool", shape=()),
    )
