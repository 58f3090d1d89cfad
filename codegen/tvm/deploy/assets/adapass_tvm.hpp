// A model compiled by adapass, run by TVM's small runtime. C++17. main.cpp is a whole program around it.
//
//     adapass::Model model(adapass::description(), "model.so", /*threads=*/1);
//     auto outputs = model.run({{"x", adapass::empty({3, 4}, "float32")}});
//
// Not thread safe. Everything wrong with an input is a std::invalid_argument that names it.
#pragma once

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace adapass {

using Tensor = tvm::ffi::Tensor;
using Tensors = std::map<std::string, Tensor>;

constexpr std::size_t kAlignment = 64;  // vectors are loaded aligned; elsewhere they end the process

// One axis: `size` entries, or any number where it is negative, the same wherever `name` stands.
struct Dim {
  std::int64_t size;
  std::string name;
};

// The value of an input that may be left out.
struct Default {
  std::vector<std::int64_t> shape;
  std::vector<unsigned char> bytes;
};

struct Input {
  std::string name;
  std::string dtype;
  std::vector<Dim> shape;
  bool optional;
  Default value;
};

// What is baked into a library: model.hpp gives it. `sites` read at indices that come from a run.
struct Description {
  std::vector<Input> inputs;
  std::vector<std::string> outputs;
  std::vector<std::string> sites;
};

struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    const std::size_t bytes = tvm::ffi::GetDataSize(*tensor);
    const std::size_t whole = (bytes + kAlignment) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, whole);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

// Memory for a tensor, rows after one another, aligned as kernels want it.
inline Tensor empty(const std::vector<std::int64_t>& shape, const std::string& dtype) {
  for (const std::int64_t size : shape) {
    if (size < 0) throw std::invalid_argument("a tensor has a negative size");
  }
  const DLDataType type = tvm::ffi::StringToDLDataType(dtype);
  return Tensor::FromNDAlloc(AlignedMemory(), tvm::ffi::ShapeView(shape.data(), shape.size()), type,
                             DLDevice{kDLCPU, 0});
}

inline std::size_t bytes_of(const Tensor& tensor) {
  return tvm::ffi::GetDataSize(static_cast<std::size_t>(tensor.numel()), tensor.dtype());
}

inline Tensor filled(const std::vector<std::int64_t>& shape, const std::string& dtype, const void* data) {
  Tensor made = empty(shape, dtype);
  if (made.numel() > 0) std::memcpy(made.data_ptr(), data, bytes_of(made));
  return made;
}

class Model {
 public:
  // `library`: the path of model.so. `threads`: at most so many, the calling one included.
  Model(Description description, const std::string& library, int threads)
      : description_(std::move(description)),
        threads_(threads),
        module_(open(library)),
        machine_(started(module_)),
        main_(machine_->GetFunction("main").value()) {
    if (threads < 1) throw std::invalid_argument("threads is " + std::to_string(threads) + ", expected at least 1");
  }

  const Description& description() const { return description_; }

  // All outputs by name. Tensors given may lie anywhere in memory, those returned are the caller's.
  Tensors run(const Tensors& feeds) {
    for (const auto& [name, tensor] : feeds) known(name);
    std::map<std::string, std::int64_t> sizes;
    std::vector<Tensor> given;
    for (const Input& input : description_.inputs) given.push_back(checked(input, feeds, &sizes));
    use_threads();
    std::vector<tvm::ffi::AnyView> arguments(given.begin(), given.end());
    tvm::ffi::Any result;
    main_.CallPacked(arguments.data(), static_cast<std::int32_t>(arguments.size()), &result);
    return named(result.cast<tvm::ffi::Array<Tensor>>());
  }

 private:
  static tvm::ffi::Module open(const std::string& library) {
    ::setenv("TVM_BIND_THREADS", "0", 0);  // read once, when the pool starts: pinned workers block others
    const bool placed = library.find('/') != std::string::npos;  // a bare name is looked for elsewhere
    return tvm::ffi::Module::LoadFromFile(placed ? library : "./" + library);
  }

  static tvm::ffi::Module started(const tvm::ffi::Module& module) {
    auto machine = module->GetFunction("vm_load_executable").value()().cast<tvm::ffi::Module>();
    constexpr int kPooled = 2;
    machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooled);
    return machine;
  }

  // The pool belongs to the process and is sized for each thread that calls.
  void use_threads() const {
    static thread_local int asked = 0;
    if (asked == threads_) return;
    constexpr int kKeepCores = 1;
    tvm::ffi::Function::GetGlobalRequired("runtime.config_threadpool")(kKeepCores, threads_);
    asked = threads_;
  }

  void known(const std::string& name) const {
    for (const Input& input : description_.inputs) {
      if (input.name == name) return;
    }
    throw std::invalid_argument("unknown input '" + name + "'");
  }

  static Tensor checked(const Input& input, const Tensors& feeds, std::map<std::string, std::int64_t>* sizes) {
    const auto found = feeds.find(input.name);
    if (found == feeds.end()) {
      if (!input.optional) throw std::invalid_argument("input '" + input.name + "' is missing");
      return filled(input.value.shape, input.dtype, input.value.bytes.data());
    }
    const Tensor& tensor = found->second;
    const std::string dtype = tvm::ffi::DLDataTypeToString(tensor.dtype());
    if (dtype != input.dtype) wrong(input, "is " + dtype + ", expected " + input.dtype);
    if (tensor.device().device_type != kDLCPU) wrong(input, "does not lie in main memory");
    if (!tensor.IsContiguous()) wrong(input, "does not lie in rows");
    check_shape(input, tensor, sizes);
    const auto place = reinterpret_cast<std::uintptr_t>(tensor.data_ptr());
    if (place % kAlignment == 0) return tensor;
    return filled({tensor.shape().begin(), tensor.shape().end()}, dtype, tensor.data_ptr());
  }

  static void check_shape(const Input& input, const Tensor& tensor, std::map<std::string, std::int64_t>* sizes) {
    const tvm::ffi::ShapeView shape = tensor.shape();
    if (shape.size() != input.shape.size()) {
      wrong(input, "has " + std::to_string(shape.size()) + " axes, expected " + std::to_string(input.shape.size()));
    }
    if (tensor.numel() == 0) wrong(input, "is empty");
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      const Dim& dim = input.shape[axis];
      std::int64_t expected = dim.size;
      if (expected < 0) expected = dim.name.empty() ? shape[axis] : sizes->emplace(dim.name, shape[axis]).first->second;
      if (shape[axis] != expected) {
        wrong(input, "has " + std::to_string(shape[axis]) + " entries on axis " + std::to_string(axis) +
                         ", expected " + std::to_string(expected));
      }
    }
  }

  [[noreturn]] static void wrong(const Input& input, const std::string& what) {
    throw std::invalid_argument("input '" + input.name + "' " + what);
  }

  // The last thing a library returns is the number of the site that read outside, 0 for none.
  Tensors named(const tvm::ffi::Array<Tensor>& values) const {
    if (values.size() != description_.outputs.size() + 1) throw std::runtime_error("model.so and model.hpp differ");
    const auto site = static_cast<std::size_t>(*static_cast<const std::int32_t*>(values.back().data_ptr()));
    if (site > description_.sites.size()) throw std::runtime_error("model.so and model.hpp differ");
    if (site > 0) {
      throw std::invalid_argument(description_.sites[site - 1] +
                                  " reads outside: an index or a length in the inputs is too large or too small");
    }
    Tensors outputs;
    for (std::size_t i = 0; i < description_.outputs.size(); ++i) outputs.emplace(description_.outputs[i], values[i]);
    return outputs;
  }

  Description description_;
  int threads_;
  tvm::ffi::Module module_;
  tvm::ffi::Module machine_;  // after module_: it goes first
  tvm::ffi::Function main_;
};

}  // namespace adapass
