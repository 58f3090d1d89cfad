"""Code generation for OpenVINO, an extra: often fastest on x86, for convolutions and batches."""
