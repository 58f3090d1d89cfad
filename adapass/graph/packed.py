"""A model as plain bytes, to be sent to another process: the files ``save_model`` writes, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from adapass.graph.load import load_model
from adapass.graph.save import save_model

FILE = "model.onnx"
PackedModel = Mapping[str, bytes]


def pack_model(model: ir.Model) -> PackedModel:
    """Equal models give equal bytes; weights too large for one file lie in a second one."""
    with TemporaryDirectory(prefix="adapass-") as name:
        folder = Path(name)
        save_model(model, folder / FILE)
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def unpack_model(packed: PackedModel) -> ir.Model:
    """The model with its weights in memory.

    Raises:
        ModelError: the bytes are not a valid model.

    """
    with TemporaryDirectory(prefix="adapass-") as name:
        folder = Path(name)
        for file, data in packed.items():
            (folder / Path(file).name).write_bytes(data)
        model = load_model(folder / FILE)
        _load_weights(model)
        return model


def _load_weights(model: ir.Model) -> None:
    """Read what lies in files that are about to be removed."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
