// Strict JSON on top of nlohmann::json: bounded depth, no duplicate keys, and typed access to the fields of
// an object with messages that say where, what was expected and what came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace affekt {

using Json = nlohmann::json;

/// Parses one JSON object. Throws ModelFileError: syntax, bad UTF-8, numbers beyond double, a key twice in
/// one object, nesting deeper than 32, or something else than an object.
Json parse_object(std::string_view text, const std::string& what);

/// One JSON object whose keys must all be asked for. `where` starts every message.
class Fields {
 public:
  Fields(const Json& object, std::string where);

  bool has(const char* key) const { return object_->contains(key); }
  const Json& get(const char* key);  ///< any type; throws if absent
  const Json& object(const char* key);
  const Json& array(const char* key);
  std::string text(const char* key);
  std::string text(const char* key, const std::vector<std::string>& allowed);
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high);
  double number(const char* key, double low, double high);
  bool boolean(const char* key);
  std::vector<int> integers(const char* key, int low, int high, std::size_t max_count);
  std::vector<std::string> texts(const char* key);
  /// Throws if the object has a key that nobody asked for.
  void done() const;
  [[noreturn]] void fail(const std::string& message) const;
  const std::string& where() const { return where_; }

 private:
  [[noreturn]] void wrong(const char* key, const std::string& expected, const Json& got) const;
  const Json* object_;
  std::string where_;
  std::vector<std::string> seen_;
};

/// A value for a message: short, on one line, printable.
std::string brief(const Json& value);
std::string brief(std::string_view text);

}  // namespace affekt
