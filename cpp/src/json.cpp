#include "json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "affekt/error.hpp"

namespace affekt {
namespace {

constexpr std::size_t kMaxDepth = 32;

std::string print(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", value);
  return buffer;
}

/// Reads a text before anything is built from it, and stops at what the parser would let pass. It is a reader
/// of its own because the parser's callback takes time that grows with the square of an array's length.
class Guard final : public nlohmann::json_sax<Json> {
 public:
  std::string fault;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(Json::number_integer_t) override { return true; }
  bool number_unsigned(Json::number_unsigned_t) override { return true; }
  bool number_float(Json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(Json::binary_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool key(std::string& name) override {
    if (open_.back().insert(name).second) return true;
    fault = "the key " + brief(std::string_view(name)) + " appears twice in one object";
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  bool enter() {
    open_.emplace_back();
    if (open_.size() <= kMaxDepth) return true;
    fault = "nested deeper than " + std::to_string(kMaxDepth) + " levels";
    return false;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }
  std::vector<std::set<std::string>> open_;  // the keys of each level; none in an array
};

}  // namespace

std::string brief(std::string_view text) {
  std::string result = "'";
  for (const char c : text.substr(0, 60)) result += c >= 0x20 && c < 0x7f ? c : '?';
  return result + (text.size() > 60 ? "...'" : "'");
}

std::string brief(const Json& value) {
  if (value.is_string()) return brief(std::string_view(value.get_ref<const std::string&>()));
  if (value.is_structured())
    return (value.is_array() ? "an array of " : "an object of ") + std::to_string(value.size());
  return value.dump();
}

Json parse_object(std::string_view text, const std::string& what) {
  Json result;
  try {
    Guard guard;
    // Where the guard stops without a fault, the text is not JSON and the parser says where.
    if (!Json::sax_parse(text.begin(), text.end(), &guard) && !guard.fault.empty())
      throw ModelFileError(what + ": " + guard.fault);
    result = Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    std::string reason = error.what();
    for (char& c : reason) c = c >= 0x20 && c < 0x7f ? c : '?';
    throw ModelFileError(what + ": not valid JSON: " + reason.substr(0, 200));
  }
  if (!result.is_object()) throw ModelFileError(what + ": must be a JSON object, got " + brief(result));
  return result;
}

Fields::Fields(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {
  if (!object.is_object()) fail("must be an object, got " + brief(object));
}

void Fields::fail(const std::string& message) const { throw ModelFileError(where_ + ": " + message); }

void Fields::wrong(const char* key, const std::string& expected, const Json& got) const {
  fail("'" + std::string(key) + "' must be " + expected + ", got " + brief(got));
}

const Json& Fields::get(const char* key) {
  const auto it = object_->find(key);
  if (it == object_->end()) fail("'" + std::string(key) + "' is missing");
  seen_.emplace_back(key);
  return *it;
}

const Json& Fields::object(const char* key) {
  const Json& value = get(key);
  if (!value.is_object()) wrong(key, "an object", value);
  return value;
}

const Json& Fields::array(const char* key) {
  const Json& value = get(key);
  if (!value.is_array()) wrong(key, "an array", value);
  return value;
}

std::string Fields::text(const char* key) {
  const Json& value = get(key);
  if (!value.is_string()) wrong(key, "text", value);
  return value.get<std::string>();
}

std::string Fields::text(const char* key, const std::vector<std::string>& allowed) {
  std::string value = text(key);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    std::string list;
    for (const std::string& a : allowed) list += (list.empty() ? "" : ", ") + a;
    wrong(key, "one of " + list, get(key));
  }
  return value;
}

std::int64_t Fields::integer(const char* key, std::int64_t low, std::int64_t high) {
  const Json& value = get(key);
  const std::string expected = "an integer in [" + std::to_string(low) + ", " + std::to_string(high) + "]";
  if (!value.is_number_integer()) wrong(key, expected, value);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
    wrong(key, expected, value);
  const auto number = value.get<std::int64_t>();
  if (number < low || number > high) wrong(key, expected, value);
  return number;
}

double Fields::number(const char* key, double low, double high) {
  const Json& value = get(key);
  const std::string expected = "a number in [" + print(low) + ", " + print(high) + "]";
  if (!value.is_number()) wrong(key, expected, value);
  const double number = value.get<double>();
  if (!(number >= low && number <= high)) wrong(key, expected, value);
  return number;
}

bool Fields::boolean(const char* key) {
  const Json& value = get(key);
  if (!value.is_boolean()) wrong(key, "true or false", value);
  return value.get<bool>();
}

std::vector<int> Fields::integers(const char* key, int low, int high, std::size_t max_count) {
  const Json& value = array(key);
  const std::string expected = "at most " + std::to_string(max_count) + " integers in [" +
                               std::to_string(low) + ", " + std::to_string(high) + "]";
  if (value.empty() || value.size() > max_count) wrong(key, expected, value);
  std::vector<int> result;
  for (const Json& item : value) {
    if (!item.is_number_integer()) wrong(key, expected, item);
    if (item.is_number_unsigned() && item.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
      wrong(key, expected, item);
    const auto number = item.get<std::int64_t>();
    if (number < low || number > high) wrong(key, expected, item);
    result.push_back(static_cast<int>(number));
  }
  return result;
}

std::vector<std::string> Fields::texts(const char* key) {
  std::vector<std::string> result;
  for (const Json& item : array(key)) {
    if (!item.is_string()) wrong(key, "an array of texts", item);
    result.push_back(item.get<std::string>());
  }
  return result;
}

void Fields::done() const {
  for (const auto& [key, value] : object_->items())
    if (std::find(seen_.begin(), seen_.end(), key) == seen_.end())
      fail(brief(std::string_view(key)) + " is not a field that is known here");
}

}  // namespace affekt
