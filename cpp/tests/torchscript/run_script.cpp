// A TorchScript program that calls affekt's ops, in a process without Python: loads the op library, runs
// every script of a folder on its input, and compares with what Python got. Then it asks for gradients, which
// live in Python: the value stays, and none come back through an op.
//
//   run_script LIBAFFEKT_OPS FOLDER      FOLDER holds NAME.pt, NAME.input and NAME.expected
#include <dlfcn.h>
#include <torch/script.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

bool python_is_mapped() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find("libpython") != std::string::npos || line.find("/_core.") != std::string::npos) return true;
  return false;
}

at::Tensor tensor_of(const std::filesystem::path& file) {
  return torch::jit::load(file.string()).attr("value").toTensor();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s LIBAFFEKT_OPS FOLDER\n", argv[0]);
    return 2;
  }
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int failed = 0, seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[2])) {
    const std::filesystem::path& file = entry.path();
    if (file.extension() != ".pt") continue;
    ++seen;
    const std::string stem = (file.parent_path() / file.stem()).string();
    torch::jit::Module module = torch::jit::load(file.string());
    at::Tensor input = tensor_of(stem + ".input");
    const at::Tensor expected = tensor_of(stem + ".expected");
    at::Tensor found;
    {
      const c10::InferenceMode inference;
      found = module.forward({input}).toTensor();
    }
    const bool same = found.sizes() == expected.sizes();
    const double apart = same ? (found - expected).abs().max().item<double>() : -1;
    std::printf("%s: largest difference %g of %g\n", file.filename().c_str(), apart,
                expected.abs().max().item<double>());
    if (!same || !(apart <= 1e-6)) ++failed;

    input.set_requires_grad(true);
    const at::Tensor again = module.forward({input}).toTensor();
    again.sum().backward();
    if (!at::equal(again.detach(), found) || input.grad().defined()) {
      std::fprintf(stderr, "%s: with gradients asked for, %s\n", file.filename().c_str(),
                   input.grad().defined() ? "some came back" : "the value is another");
      ++failed;
    }
  }
  if (python_is_mapped()) {
    std::fprintf(stderr, "Python is in this process\n");
    return 1;
  }
  if (seen == 0) std::fprintf(stderr, "no .pt file in %s\n", argv[2]);
  return failed == 0 && seen > 0 ? 0 : 1;
}
