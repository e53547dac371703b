// The container of a model file: a safetensors file whose metadata carries the card and a hash over all of
// it.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/model.hpp"
#include "json.hpp"

namespace affekt {

/// A file whose hash, layout and tensor table have been checked; the graph in the card has not.
struct Container {
  std::string card_text;
  std::string hash;  // the stored SHA-256, which is right
  Json card;
  AlignedVector<float> storage;
  std::vector<TensorView> tensors;  // in file order, as float32; they point into storage
};

/// Throws ModelFileError for anything that is not a sound container of schema 1.
Container read_container(std::string_view bytes);

}  // namespace affekt
