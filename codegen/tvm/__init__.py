"""Code generation with TVM: machine code from kernels of adapass, for branches and small graphs."""
