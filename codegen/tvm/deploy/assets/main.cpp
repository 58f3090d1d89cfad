// Run the model once on .npy files:  ./run OUTPUT_FOLDER [--threads=N] NAME=FILE.npy ...
//
// Output number K goes to OUTPUT_FOLDER/output_K.npy; its name is printed. model.so is read from beside
// this program.
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>

#include "adapass_tvm.hpp"
#include "model.hpp"
#include "npy.hpp"

namespace {

int run(int count, char** arguments) {
  if (count < 2) throw std::invalid_argument("usage: run OUTPUT_FOLDER [--threads=N] NAME=FILE.npy ...");
  const std::string folder = arguments[1], threads_option = "--threads=";
  adapass::Tensors feeds;
  int threads = 1;
  for (int i = 2; i < count; ++i) {
    const std::string argument = arguments[i];
    const std::size_t equals = argument.rfind('=');
    if (equals == std::string::npos) throw std::invalid_argument(argument + " is not NAME=FILE.npy");
    if (argument.rfind(threads_option, 0) == 0) {
      threads = std::stoi(argument.substr(threads_option.size()));
    } else {
      feeds.insert_or_assign(argument.substr(0, equals), adapass::read_npy(argument.substr(equals + 1)));
    }
  }
  const auto beside = std::filesystem::absolute(arguments[0]).parent_path() / "model.so";
  adapass::Model model(adapass::description(), beside.string(), threads);
  const adapass::Tensors outputs = model.run(feeds);
  int number = 0;
  for (const std::string& name : model.description().outputs) {
    const std::string file = "output_" + std::to_string(number++) + ".npy";
    adapass::write_npy(folder + "/" + file, outputs.at(name));
    std::cout << file << ' ' << name << '\n';
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const tvm::ffi::Error& error) {
    std::cerr << "error: " << error.message() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
  }
  return 1;
}
