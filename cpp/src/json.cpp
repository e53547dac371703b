#include "json.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <unordered_set>

#include "affekt/error.hpp"

namespace affekt {
namespace {

constexpr int kMaxDepth = 32;

std::string print(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", value);
  return buffer;
}

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
  std::vector<std::unordered_set<std::string>> open;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
        open.emplace_back();
        [[fallthrough]];
      case Json::parse_event_t::array_start:
        if (depth >= kMaxDepth)
          throw ModelFileError(what + ": nested deeper than " + std::to_string(kMaxDepth) + " levels");
        break;
      case Json::parse_event_t::key:
        if (!open.back().insert(parsed.get<std::string>()).second)
          throw ModelFileError(what + ": the key " + brief(parsed) + " appears twice in one object");
        break;
      case Json::parse_event_t::object_end:
        open.pop_back();
        break;
      default:
        break;
    }
    return true;
  };
  Json result;
  try {
    result = Json::parse(text.begin(), text.end(), check);
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
      fail(brief(std::string_view(key)) + " is not a field that schema 1 knows here");
}

}  // namespace affekt
