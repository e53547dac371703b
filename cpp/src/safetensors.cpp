#include "safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>

#include "affekt/error.hpp"
#include "sha256.hpp"

namespace affekt {
namespace {

static_assert(std::endian::native == std::endian::little, "model files are little-endian and read in place");

constexpr std::size_t kMaxHeader = std::size_t{16} << 20;
constexpr std::size_t kMaxFile = std::size_t{1} << 30;
constexpr int kSchema = 2;  // the newest that is read; older ones are read for ever

struct Entry {
  std::string name;
  std::vector<std::size_t> shape;
  std::size_t count = 1, begin = 0, end = 0;
  bool quantised = false;        // I8; else F32
  const Entry* scale = nullptr;  // factors of an I8 tensor, one per index of its first dimension
  bool scales = false;           // is such factors
};

Entry read_entry(const std::string& name, const Json& value, const char* offsets_key) {
  const std::string where = "tensor " + brief(std::string_view(name));
  Fields fields(value, where);
  Entry entry;
  entry.name = name;
  const std::string dtype = fields.text("dtype");
  if (dtype != "F32" && dtype != "I8")
    fields.fail("dtype must be F32 or I8, got " + brief(std::string_view(dtype)));
  entry.quantised = dtype == "I8";
  const auto size = [&](const Json& item, const char* what) {
    if (!item.is_number_unsigned() || item.get<std::uint64_t>() > kMaxFile)
      fields.fail(std::string(what) + " must hold integers up to the file limit, got " + brief(item));
    return static_cast<std::size_t>(item.get<std::uint64_t>());
  };
  const Json& shape = fields.array("shape");
  if (shape.empty() || shape.size() > 8)
    fields.fail("shape must have 1 to 8 dimensions, got " + brief(shape));
  for (const Json& item : shape) {
    entry.shape.push_back(size(item, "shape"));
    if (entry.shape.back() == 0) fields.fail("shape must not hold 0");
    entry.count *= entry.shape.back();  // both factors are at most 2^30, so the product fits before the check
    if (entry.count > kMaxFile) fields.fail("shape has more values than a file can hold");
  }
  const Json& offsets = fields.array(offsets_key);
  if (offsets.size() != 2) fields.fail("offsets must be a pair, got " + brief(offsets));
  entry.begin = size(offsets[0], "offsets");
  entry.end = size(offsets[1], "offsets");
  const std::size_t bytes = entry.count * (entry.quantised ? 1 : sizeof(float));
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    fields.fail("offsets span " +
                std::to_string(static_cast<long long>(entry.end) - static_cast<long long>(entry.begin)) +
                " bytes, the shape needs " + std::to_string(bytes));
  if (!entry.quantised && entry.begin % sizeof(float) != 0)
    fields.fail("F32 must start on a multiple of 4 bytes, got " + std::to_string(entry.begin));
  if (entry.quantised && entry.shape.size() < 2)
    fields.fail("only weights of 2 or more dimensions may be I8, got shape " + brief(shape));
  fields.done();
  return entry;
}

/// Finds the scales "<name>.scale" of every I8 tensor.
void pair_scales(std::vector<Entry>& entries) {
  std::map<std::string, Entry*> waiting;  // by the name that the scales must have
  for (Entry& entry : entries)
    if (entry.quantised) waiting.emplace(entry.name + ".scale", &entry);
  for (Entry& entry : entries) {
    const auto it = waiting.find(entry.name);
    if (it == waiting.end() || entry.quantised || entry.shape.size() != 1 ||
        entry.shape[0] != it->second->shape[0])
      continue;
    it->second->scale = &entry;
    entry.scales = true;
    waiting.erase(it);
  }
  if (waiting.empty()) return;
  const auto& [name, entry] = *waiting.begin();
  throw ModelFileError("tensor " + brief(std::string_view(entry->name)) +
                       " is I8 and needs its scales: " + brief(std::string_view(name)) + ", F32 of shape (" +
                       std::to_string(entry->shape[0]) + ")");
}

/// The float32 values of all tensors but the scales. Throws ModelFileError.
void read_values(std::vector<Entry>& entries, std::string_view data, Container& result) {
  pair_scales(entries);
  std::size_t total = 0;
  for (const Entry& entry : entries)
    if (!entry.scales) total += entry.count;
  if (total > kMaxFile / sizeof(float))
    throw ModelFileError("the tensors take " + std::to_string(total * sizeof(float)) +
                         " bytes as float32, more than 1 GiB");
  result.storage.resize(total);
  float* values = result.storage.data();
  for (const Entry& entry : entries) {
    const auto check = [&](bool good, const char* fault) {
      if (!good) throw ModelFileError("tensor " + brief(std::string_view(entry.name)) + " " + fault);
    };
    const char* source = data.data() + entry.begin;
    if (!entry.quantised && !entry.scales) {
      std::memcpy(values, source, entry.end - entry.begin);
    } else if (entry.quantised) {
      const std::size_t row = entry.count / entry.shape[0];
      for (std::size_t i = 0; i < entry.count; ++i) {
        float scale;
        std::memcpy(&scale, data.data() + entry.scale->begin + i / row * sizeof(float), sizeof(float));
        check(scale > 0 && std::isfinite(scale), "has a scale that is not positive and finite");
        const auto q = static_cast<std::int8_t>(source[i]);
        check(q != -128, "holds -128; I8 values lie in [-127, 127]");
        values[i] = static_cast<float>(q) * scale;
      }
    }
    if (entry.scales) continue;
    check(std::all_of(values, values + entry.count, [](float v) { return std::isfinite(v); }),
          "holds NaN or infinity");
    result.tensors.push_back({entry.name, entry.shape, {values, entry.count}});
    values += entry.count;
  }
}

}  // namespace

Container read_container(std::string_view bytes) {
  if (bytes.size() > kMaxFile) throw ModelFileError("the file is larger than 1 GiB");
  if (bytes.size() < 10)
    throw ModelFileError("too short to be a model file: " + std::to_string(bytes.size()) + " bytes");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeader || length < 2)
    throw ModelFileError("not a safetensors file: it announces a header of " + std::to_string(length) +
                         " bytes (allowed: 2 to " + std::to_string(kMaxHeader) + ")");
  if (length > bytes.size() - 8)
    throw ModelFileError("truncated: the header needs " + std::to_string(length) + " bytes, the file has " +
                         std::to_string(bytes.size() - 8) + " left");
  if (length % 8 != 0)
    throw ModelFileError("the tensor data does not start on a multiple of 8 bytes; not written by affekt");
  const std::string_view header_text = bytes.substr(8, length);
  const std::string_view data = bytes.substr(8 + length);
  if (header_text.front() != '{')
    throw ModelFileError("not a safetensors file: the header is not a JSON object");

  const Json header = parse_object(header_text, "header");
  if (!header.contains("__metadata__") || !header["__metadata__"].is_object() ||
      !header["__metadata__"].contains("affekt.card"))
    throw ModelFileError("a safetensors file but not an affekt model: its metadata has no 'affekt.card'");
  Fields metadata(header["__metadata__"], "metadata");
  Container result;
  result.card_text = metadata.text("affekt.card");
  const std::string stored = metadata.text("affekt.sha256");
  metadata.done();

  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items())
    if (name != "__metadata__") entries.push_back(read_entry(name, value, "data_offsets"));
  if (entries.empty()) throw ModelFileError("the file holds no tensors");
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  std::size_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end)
      throw ModelFileError("tensor " + brief(std::string_view(entry.name)) + " starts at byte " +
                           std::to_string(entry.begin) + " where " + std::to_string(end) +
                           " was expected; tensors may neither overlap nor leave gaps");
    end = entry.end;
  }
  if (end != data.size())
    throw ModelFileError(std::string(end > data.size() ? "truncated: " : "trailing bytes: ") +
                         "the tensors need " + std::to_string(end) + " bytes, the file has " +
                         std::to_string(data.size()));

  Sha256 hash;
  hash.update(result.card_text.data(), result.card_text.size());
  hash.update(data.data(), data.size());
  if (const std::string digest = hash.finish(); digest != stored)
    throw ModelFileError("corrupt: SHA-256 over card and tensors is " + digest + ", the file says " +
                         brief(std::string_view(stored)));
  result.hash = stored;

  result.card = parse_object(result.card_text, "card");
  // First of all, so that a newer file is called newer and not malformed.
  if (!result.card.contains("schema")) throw ModelFileError("card: 'schema' is missing");
  if (!result.card["schema"].is_number_integer() || result.card["schema"] < 1 ||
      result.card["schema"] > kSchema)
    throw ModelFileError("card: schema " + brief(result.card["schema"]) +
                         " is not supported; this version of affekt reads schema 1 and " +
                         std::to_string(kSchema));
  Fields card(result.card, "card");
  const Json& table = card.object("tensors");
  if (table.size() != entries.size())
    throw ModelFileError("card: 'tensors' lists " + std::to_string(table.size()) + " tensors, the header " +
                         std::to_string(entries.size()));
  for (const Entry& entry : entries) {
    const auto it = table.find(entry.name);
    if (it == table.end())
      throw ModelFileError("card: 'tensors' lacks " + brief(std::string_view(entry.name)));
    const Entry listed = read_entry(entry.name, *it, "offsets");
    if (listed.quantised != entry.quantised || listed.shape != entry.shape || listed.begin != entry.begin ||
        listed.end != entry.end)
      throw ModelFileError("tensor " + brief(std::string_view(entry.name)) +
                           ": dtype, shape or offsets differ between the card and the header");
  }
  read_values(entries, data, result);
  return result;
}

}  // namespace affekt
