// Signals (..., time) as NumPy hands them over, read where they lie.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "affekt/error.hpp"

namespace affekt::bindings {

/// What a signal may be made of; 16-bit PCM is taken as x / 32768.
enum class Kind { f32, f64, i16 };

/// Throws InvalidArgument for every other dtype.
inline Kind kind_of(const pybind11::array& x) {
  const pybind11::dtype dtype = x.dtype();
  if (dtype.byteorder() == '=') {
    if (dtype.num() == pybind11::detail::npy_api::NPY_FLOAT_) return Kind::f32;
    if (dtype.num() == pybind11::detail::npy_api::NPY_DOUBLE_) return Kind::f64;
    if (dtype.num() == pybind11::detail::npy_api::NPY_SHORT_) return Kind::i16;
  }
  throw InvalidArgument("samples: expected dtype float32, float64 or int16, got " +
                        pybind11::str(x.dtype()).cast<std::string>());
}

/// f(S{}) for the type S of such samples.
template <class F>
auto with_type(Kind kind, F&& f) {
  switch (kind) {
    case Kind::f32:
      return f(float{});
    case Kind::f64:
      return f(double{});
    case Kind::i16:
      break;
  }
  return f(std::int16_t{});
}

/// Rows of an array of shape (..., time), wherever its strides put them; no copy while time is contiguous.
class Rows {
 public:
  explicit Rows(const pybind11::array& x) : data_(static_cast<const char*>(x.data())) {
    if (x.ndim() < 1)
      throw InvalidArgument("samples: expected shape (..., time), got a scalar (0 dimensions)");
    shape_.assign(x.shape(), x.shape() + x.ndim());
    strides_.assign(x.strides(), x.strides() + x.ndim());
    for (std::size_t d = 0; d + 1 < shape_.size(); ++d) count_ *= static_cast<std::size_t>(shape_[d]);
  }

  std::size_t count() const { return count_; }
  std::size_t length() const { return static_cast<std::size_t>(shape_.back()); }
  const std::vector<pybind11::ssize_t>& shape() const { return shape_; }

  /// Index of sample i of row r, as Python prints it.
  std::string index(std::size_t r, std::size_t i) const {
    std::string at = std::to_string(i);
    for (std::size_t d = shape_.size() - 1; d-- > 0;) {
      at = std::to_string(r % static_cast<std::size_t>(shape_[d])) + ", " + at;
      r /= static_cast<std::size_t>(shape_[d]);
    }
    return shape_.size() == 1 ? at : "(" + at + ")";
  }

  template <class S>
  const S* row(std::size_t r, std::vector<S>& copy) const {
    const char* at = data_;
    for (std::size_t d = shape_.size() - 1; d-- > 0;) {
      const auto extent = static_cast<std::size_t>(shape_[d]);
      at += static_cast<pybind11::ssize_t>(r % extent) * strides_[d];
      r /= extent;
    }
    const pybind11::ssize_t step = strides_.back();
    const bool aligned = reinterpret_cast<std::uintptr_t>(at) % alignof(S) == 0;
    if (aligned && (step == static_cast<pybind11::ssize_t>(sizeof(S)) || length() <= 1))
      return reinterpret_cast<const S*>(at);
    copy.resize(length());
    for (std::size_t i = 0; i < length(); ++i)
      std::memcpy(&copy[i], at + static_cast<pybind11::ssize_t>(i) * step, sizeof(S));
    return copy.data();
  }

 private:
  const char* data_;
  std::vector<pybind11::ssize_t> shape_, strides_;
  std::size_t count_ = 1;
};

/// Where every row starts, rows that are not contiguous in a copy.
template <class S>
class RowPointers {
 public:
  explicit RowPointers(const Rows& rows) {
    at_.reserve(rows.count());
    std::vector<S> copy;
    for (std::size_t r = 0; r < rows.count(); ++r) {
      at_.push_back(rows.row<S>(r, copy));
      if (!copy.empty()) copies_.push_back(std::move(copy)), copy.clear();
    }
  }
  const S* const* data() const { return at_.data(); }
  const S* operator[](std::size_t r) const { return at_[r]; }

 private:
  std::vector<const S*> at_;
  std::vector<std::vector<S>> copies_;
};

/// Where the rows of a new C-contiguous array start.
template <class T>
std::vector<T*> row_pointers(pybind11::array_t<T>& array, std::size_t rows, std::size_t length) {
  std::vector<T*> at(rows);
  T* data = array.mutable_data();
  for (std::size_t r = 0; r < rows; ++r) at[r] = data + r * length;
  return at;
}

/// A table of a plan: rows of `columns` values, or one vector where that is 0.
inline pybind11::array_t<double> table(const std::vector<double>& values, int columns) {
  if (columns == 0)
    return pybind11::array_t<double>(static_cast<pybind11::ssize_t>(values.size()), values.data());
  const auto width = static_cast<pybind11::ssize_t>(columns);
  return pybind11::array_t<double>({static_cast<pybind11::ssize_t>(values.size()) / width, width},
                                   values.data());
}

}  // namespace affekt::bindings
