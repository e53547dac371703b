#include "affekt/model.hpp"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>

#include "graph.hpp"
#include "safetensors.hpp"

namespace affekt {
namespace {

constexpr std::uintmax_t kMaxFile = std::uintmax_t{1} << 30;

std::string read_file(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) throw ModelFileError("no such file");
  if (!std::filesystem::is_regular_file(status))
    throw ModelFileError(error ? "cannot be read: " + error.message() : "not a regular file");
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) throw ModelFileError("cannot be read: " + error.message());
  if (size > kMaxFile)
    throw ModelFileError("has " + std::to_string(size) + " bytes, more than the limit of 1 GiB");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ModelFileError(std::string("cannot be read: ") + std::strerror(errno));
  std::string bytes(static_cast<std::size_t>(size), '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(file.gcount()) != size)
    throw ModelFileError("cannot be read: " + std::to_string(file.gcount()) + " of " + std::to_string(size) +
                         " bytes came");
  return bytes;
}

/// What `read` makes of bytes in memory.
template <class Read>
auto from_memory(const void* data, std::size_t size, Read read) {
  if (data == nullptr && size > 0) throw ModelFileError("no data");
  try {
    return read(std::string_view(static_cast<const char*>(data), size));
  } catch (const std::bad_alloc&) {
    throw ModelFileError("not enough memory for this model");
  }
}

/// What `read` makes of a file's bytes; errors say which file.
template <class Read>
auto from_file(const std::string& path, Read read) {
  try {
    return read(read_file(path));
  } catch (const ModelFileError& error) {
    throw ModelFileError(path + ": " + error.what());
  } catch (const std::bad_alloc&) {
    throw ModelFileError(path + ": not enough memory for this model");
  }
}

}  // namespace

struct Model::Impl {
  explicit Impl(Container&& sound) : container(std::move(sound)), graph(container.card, container.tensors) {
    // The text stays; the nodes have packed what they need.
    container.card = Json();
    container.tensors = std::vector<TensorView>();
    container.storage = AlignedVector<float>();
  }
  Container container;
  Graph graph;
};

Model::Model() = default;
Model::~Model() = default;

std::shared_ptr<const Model> Model::from_bytes(const void* data, std::size_t size) {
  return from_memory(data, size, [](std::string_view bytes) {
    const std::shared_ptr<Model> model(new Model);
    model->impl_ = std::make_unique<Impl>(read_container(bytes));
    return model;
  });
}

std::shared_ptr<const Model> Model::load(const std::string& path) {
  return from_file(path, [](const std::string& bytes) { return from_bytes(bytes.data(), bytes.size()); });
}

std::vector<Tensor> Model::tensors(const void* data, std::size_t size) const {
  return from_memory(data, size, [this](std::string_view bytes) {
    const Container container = read_container(bytes);
    if (container.hash != hash())
      throw ModelFileError("holds another model than the one that was loaded (SHA-256 " + container.hash +
                           ", not " + hash() + ")");
    std::vector<Tensor> tensors;
    for (const TensorView& t : container.tensors)
      tensors.push_back({t.name, t.shape, {t.values.begin(), t.values.end()}});
    return tensors;
  });
}

std::vector<Tensor> Model::tensors(const std::string& path) const {
  return from_file(path, [this](const std::string& bytes) { return tensors(bytes.data(), bytes.size()); });
}

const std::string& Model::card() const noexcept { return impl_->container.card_text; }
const std::string& Model::hash() const noexcept { return impl_->container.hash; }
const std::vector<InputSpec>& Model::inputs() const noexcept { return impl_->graph.inputs; }
const std::vector<OutputSpec>& Model::outputs() const noexcept { return impl_->graph.outputs; }
const std::vector<std::string>& Model::columns() const noexcept { return impl_->graph.columns; }
const Timing& Model::timing() const noexcept { return impl_->graph.timing; }
std::size_t Model::state_bytes() const noexcept { return impl_->graph.memory; }
const Graph& Model::graph() const noexcept { return impl_->graph; }

}  // namespace affekt
