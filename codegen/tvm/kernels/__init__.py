"""Kernels written for TVM: heavy work is vectorised and parallel before any schedule rule sees it."""
