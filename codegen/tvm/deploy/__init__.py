"""Programs around a build of the TVM generator that need neither Python nor a compiler where they run."""

from adapass.codegen.tvm.deploy.cpp import write_cpp

__all__ = ["write_cpp"]
