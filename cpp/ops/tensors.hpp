// What the ops share: checks of tensors that name the argument, and torch's threads for libaffekt.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "affekt/error.hpp"

namespace affekt {

/// Calls f with a value of the C++ type of the tensor's dtype, float32 or float64; others are refused.
template <class F>
auto with_dtype(const char* name, const torch::stable::Tensor& tensor, F&& f) {
  using torch::headeronly::ScalarType;
  const ScalarType dtype = tensor.scalar_type();
  if (dtype == ScalarType::Float) return f(float{});
  if (dtype == ScalarType::Double) return f(double{});
  throw InvalidArgument(std::string(name) + ": expected dtype float32 or float64");
}

/// An uninitialised dense tensor on the CPU, or on the device of `like`, without the dispatcher: a small loss
/// spends most of its time there.
inline torch::stable::Tensor fresh(std::initializer_list<std::int64_t> sizes,
                                   torch::headeronly::ScalarType dtype,
                                   const torch::stable::Tensor* like = nullptr) {
  std::int32_t device = aoti_torch_device_type_cpu(), index = 0;
  if (like != nullptr) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like->get(), &device));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like->get(), &index));
  }
  std::array<std::int64_t, 4> strides{};
  std::int64_t stride = 1;
  for (std::size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<std::int64_t>(1, sizes.begin()[d]);
  }
  AtenTensorHandle handle = nullptr;
  const std::int32_t code = torch::stable::detail::to<std::int32_t>(torch::stable::detail::from(dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<std::int64_t>(sizes.size()), sizes.begin(),
                                                  strides.data(), code, device, index, &handle));
  return torch::stable::Tensor(handle);
}

/// The tensor itself where it is dense already, else a dense copy.
inline torch::stable::Tensor dense(const torch::stable::Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

/// Sizes as text: "(2, 3)".
inline std::string shape_of(const torch::stable::Tensor& tensor) {
  std::string text = "(";
  for (std::int64_t d = 0; d < tensor.dim(); ++d)
    text += (d == 0 ? "" : ", ") + std::to_string(tensor.size(d));
  return text + ")";
}

/// Two tensors of one shape and dtype, else InvalidArgument.
inline void require_twins(const char* name, const torch::stable::Tensor& tensor, const char* other_name,
                          const torch::stable::Tensor& other) {
  bool same = tensor.dim() == other.dim() && tensor.scalar_type() == other.scalar_type();
  for (std::int64_t d = 0; same && d < tensor.dim(); ++d) same = tensor.size(d) == other.size(d);
  if (!same)
    throw InvalidArgument(std::string(name) + ": expected the shape and dtype of " + other_name + ", " +
                          shape_of(other) + ", got " + shape_of(tensor));
}

/// A tensor beside the name of the argument that it is.
using Named = std::pair<const char*, const torch::stable::Tensor*>;

/// The dtype that the losses compute in: float64 if a tensor is, else float32. Floating point of 16 bits and
/// more.
inline torch::headeronly::ScalarType working_dtype(std::initializer_list<Named> tensors) {
  using torch::headeronly::ScalarType;
  bool wide = false;
  for (const auto& [name, tensor] : tensors) {
    const ScalarType dtype = tensor->scalar_type();
    wide = wide || dtype == ScalarType::Double;
    if (dtype != ScalarType::Double && dtype != ScalarType::Float && dtype != ScalarType::Half &&
        dtype != ScalarType::BFloat16)
      throw InvalidArgument(std::string(name) +
                            ": expected dtype float32, float64, bfloat16 or float16, got another");
  }
  return wide ? ScalarType::Double : ScalarType::Float;
}

/// The tensor in another dtype; itself where it has that one.
inline torch::stable::Tensor as_dtype(const torch::stable::Tensor& tensor,
                                      torch::headeronly::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

/// Which of the known words an option is.
inline std::int64_t index_of(const char* name, const std::string& value,
                             std::initializer_list<const char*> known) {
  std::string words;
  for (std::size_t i = 0; i < known.size(); ++i) {
    if (value == known.begin()[i]) return static_cast<std::int64_t>(i);
    words += (i == 0 ? "" : ", ") + std::string(known.begin()[i]);
  }
  throw InvalidArgument(std::string(name) + ": expected one of " + words + ", got '" + value + "'");
}

/// An op of torch that has no wrapper in its stable headers.
template <class... Arguments>
torch::stable::Tensor call_torch(const char* op, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

/// A RunRanges (runtime.hpp) on torch's own threads, which training has set already.
inline void on_torch_threads(std::size_t n, std::size_t grain,
                             void (*body)(void*, std::size_t, std::size_t) noexcept, void* context) {
  if (n <= grain) {
    if (n > 0) body(context, 0, n);
    return;
  }
  torch::stable::parallel_for(0, static_cast<std::int64_t>(n), static_cast<std::int64_t>(grain),
                              [&](std::int64_t begin, std::int64_t end) {
                                body(context, static_cast<std::size_t>(begin), static_cast<std::size_t>(end));
                              });
}

}  // namespace affekt
