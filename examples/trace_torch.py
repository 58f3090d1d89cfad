"""Bring a torch module (needs the torch extra) and run it as ONNX."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np

import adapass
from adapass.execution import Session

if find_spec("torch") is None:
    print("torch is not installed: pip install 'adapass[torch]'")
    sys.exit(0)

import torch

module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
example = torch.randn(2, 4)
model = adapass.trace(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))

session = Session(model)
name = model.graph.inputs[0].name or ""
for batch in (1, 5):
    x = np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)
    (found,) = session.run({name: x}).values()
    print(batch, np.abs(found - module(torch.as_tensor(x)).detach().numpy()).max())
