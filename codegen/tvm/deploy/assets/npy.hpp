// Read and write tensors as numpy's .npy files: numbers, little-endian, rows after one another.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "adapass_tvm.hpp"

namespace adapass {

inline const std::map<std::string, std::string>& npy_types() {
  static const std::map<std::string, std::string> types = {
      {"|b1", "bool"},   {"|i1", "int8"},   {"|u1", "uint8"},   {"<i2", "int16"},   {"<u2", "uint16"},
      {"<i4", "int32"},  {"<u4", "uint32"}, {"<i8", "int64"},   {"<u8", "uint64"},  {"<f2", "float16"},
      {"<f4", "float32"}, {"<f8", "float64"}};
  return types;
}

// What stands between `key` and `end` in the header, which is a Python dictionary in text form.
inline std::string npy_entry(const std::string& header, const std::string& key, char end, const std::string& file) {
  const std::size_t start = header.find(key);
  const std::size_t stop = start == std::string::npos ? start : header.find(end, start + key.size());
  if (stop == std::string::npos) throw std::invalid_argument(file + " has no readable header");
  return header.substr(start + key.size(), stop - start - key.size());
}

inline std::vector<std::int64_t> npy_shape(const std::string& text, const std::string& file) {
  std::vector<std::int64_t> shape;
  std::size_t place = 0;
  while ((place = text.find_first_of("0123456789", place)) != std::string::npos) {
    std::size_t used = 0;
    shape.push_back(std::stoll(text.substr(place), &used));
    place += used;
  }
  std::int64_t numbers = 1;
  for (const std::int64_t size : shape) {
    if (size > 0 && numbers > (std::int64_t{1} << 40) / size) throw std::invalid_argument(file + " is too large");
    numbers *= size;
  }
  return shape;
}

inline Tensor read_npy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  unsigned char start[12] = {};
  if (!file.read(reinterpret_cast<char*>(start), 10) || std::string(start, start + 6) != "\x93NUMPY") {
    throw std::invalid_argument(path + " is no .npy file");
  }
  std::uint32_t length = start[8] | start[9] << 8;
  if (start[6] > 1) {
    file.read(reinterpret_cast<char*>(start + 10), 2);
    length |= static_cast<std::uint32_t>(start[10]) << 16 | static_cast<std::uint32_t>(start[11]) << 24;
  }
  if (length > (1u << 20)) throw std::invalid_argument(path + " has no readable header");
  std::string header(length, ' ');
  file.read(header.data(), length);
  const auto type = npy_types().find(npy_entry(header, "'descr': '", '\'', path));
  if (type == npy_types().end()) throw std::invalid_argument(path + " holds no numbers that are little-endian");
  if (npy_entry(header, "'fortran_order': ", ',', path) != "False") {
    throw std::invalid_argument(path + " lies in columns; save numpy.ascontiguousarray of it");
  }
  Tensor made = empty(npy_shape(npy_entry(header, "'shape': (", ')', path), path), type->second);
  const auto bytes = static_cast<std::streamsize>(bytes_of(made));
  if (bytes > 0 && !file.read(static_cast<char*>(made.data_ptr()), bytes)) {
    throw std::invalid_argument(path + " is shorter than its header says");
  }
  return made;
}

inline void write_npy(const std::string& path, const Tensor& tensor) {
  const std::string dtype = tvm::ffi::DLDataTypeToString(tensor.dtype());
  std::string descr;
  for (const auto& [code, name] : npy_types()) {
    if (name == dtype) descr = code;
  }
  if (descr.empty()) throw std::invalid_argument(".npy files hold no " + dtype);
  std::string shape;
  for (const std::int64_t size : tensor.shape()) shape += std::to_string(size) + ",";
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(63 - (10 + header.size()) % 64, ' ').push_back('\n');
  std::ofstream file(path, std::ios::binary);
  file << std::string("\x93NUMPY\x01\x00", 8) << static_cast<char>(header.size() & 0xff)
       << static_cast<char>(header.size() >> 8) << header;
  file.write(static_cast<const char*>(tensor.data_ptr()),
             static_cast<std::streamsize>(bytes_of(tensor)));
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

}  // namespace adapass
