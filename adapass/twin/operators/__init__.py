"""What each ONNX operator computes, in torch: one small function an operator, one file a family.

A function takes the operator's inputs in order (``None`` where one is left out) and its attributes by
their ONNX names, defaults included. It may ask for two more keyword arguments: ``opset``, the version
of its domain, and ``outputs``, how many outputs the node has. Several outputs come back as a tuple.
An attribute that a function does not take makes the node untranslatable: nothing is dropped silently.
"""

from __future__ import annotations
