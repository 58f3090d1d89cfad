"""Code generation for ONNX Runtime: the complete, portable default."""
