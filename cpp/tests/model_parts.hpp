// A model file taken apart, and put together with a fresh hash.
#pragma once

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "sha256.cpp"  // the library keeps its own copy hidden; here it writes hashes

namespace affekt::test {

using Json = nlohmann::json;

struct Parts {
  Json header, card;
  std::string data;
};

inline Parts take_apart(const std::string& bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  Parts parts;
  parts.header = Json::parse(bytes.substr(8, length));
  parts.card = Json::parse(parts.header["__metadata__"]["affekt.card"].get<std::string>());
  parts.data = bytes.substr(8 + length);
  return parts;
}

inline std::string put_together(const Parts& parts, const std::string& card_text) {
  Json header = parts.header;
  Sha256 hash;
  hash.update(card_text.data(), card_text.size());
  hash.update(parts.data.data(), parts.data.size());
  header["__metadata__"] = {{"affekt.card", card_text}, {"affekt.sha256", hash.finish()}};
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text + parts.data;
}

inline std::string put_together(const Parts& parts) { return put_together(parts, parts.card.dump()); }

}  // namespace affekt::test
