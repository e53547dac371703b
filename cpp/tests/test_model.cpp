// Model files: the golden ones give their values; damaged and hostile ones give a ModelFileError and nothing
// worse.
#include "affekt/model.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>

#include "affekt/engine.hpp"
#include "affekt/error.hpp"
#include "check.hpp"
#include "golden.hpp"
#include "model_parts.hpp"

using affekt::FullPass;
using affekt::Model;
using affekt::ModelFileError;
using affekt::Sha256;
using affekt::test::golden_path;
using affekt::test::Json;
using affekt::test::Parts;
using affekt::test::put_together;
using affekt::test::read_bytes;
using affekt::test::take_apart;

namespace {

void sha256_matches_the_standard() {
  const auto digest = [](const std::string& text, std::size_t piece) {
    Sha256 hash;
    for (std::size_t at = 0; at < text.size(); at += piece) {
      const std::string part = text.substr(at, piece);
      hash.update(part.data(), part.size());
    }
    return hash.finish();
  };
  CHECK_EQ(digest("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK_EQ(digest("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQ(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 7),
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  for (const std::size_t piece : {1, 63, 64, 65, 1000})
    CHECK_EQ(digest(std::string(1000000, 'a'), piece),
             "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

void golden_files_give_their_values() {
  for (const std::string name : {"schema1_utterance", "schema1_trace", "schema1_utterance_int8",
                                 "schema1_speaker", "schema1_ensemble"}) {
    const auto model = Model::load(golden_path(name + ".safetensors"));
    const auto expected = affekt::test::read_table(golden_path(name + ".csv"));
    const auto signal = affekt::test::golden_signal(12000);
    std::vector<double> times;
    std::vector<float> values;
    std::vector<std::uint8_t> valid;
    FullPass pass(model);
    CHECK(pass.feed(signal.data(), signal.size(), times, values, &valid) == affekt::Status::ok);
    pass.finish(times, values, &valid);
    const std::size_t columns = model->columns().size();
    const bool says = name == "schema1_speaker" || name == "schema1_ensemble";
    CHECK_EQ(times.size(), expected.size());
    CHECK_EQ(valid.size(), expected.size());
    for (std::size_t r = 0; r < std::min(times.size(), expected.size()); ++r) {
      CHECK_EQ(expected[r].size(), columns + 1 + says);
      CHECK_EQ(static_cast<double>(valid[r]), says ? expected[r].back() : 1.0);
      CHECK_NEAR(times[r], expected[r][0], 1e-6);
      for (std::size_t c = 0; c < columns; ++c) CHECK_NEAR(values[r * columns + c], expected[r][c + 1], 1e-5);
    }
  }
  const auto model = Model::load(golden_path("schema1_utterance.safetensors"));
  CHECK_EQ(model->inputs().front().name, "audio");
  CHECK_EQ(model->columns().back(), "p_sad");
  CHECK_EQ(model->outputs().at(1).offset, 3u);
  CHECK(model->card().find("\"licence\":\"CC0-1.0\"") != std::string::npos);
  // 256-sample frames every 80, 3 rows every 2, a field of 25 rows, 20 pooled every 3.
  CHECK_NEAR(model->timing().first_estimate_s, (256 + 2 * 80 + 2 * 160) / 8000.0, 1e-12);
  CHECK_NEAR(model->timing().hop_s, 3 * 2 * 80 / 8000.0, 1e-12);
  CHECK_NEAR(model->timing().context_s, (256 + 2 * 80 + (24 + 19) * 160) / 8000.0, 1e-12);
}

/// Loads, and runs what loads; anything but success or a ModelFileError with a message fails the test.
bool survives(const std::string& bytes) {
  try {
    const auto model = Model::from_bytes(bytes.data(), bytes.size());
    if (model->state_bytes() > 32u << 20) return true;
    static const auto signal = affekt::test::golden_signal(3000);
    std::vector<double> times;
    std::vector<float> values;
    FullPass pass(model);
    CHECK(pass.feed(signal.data(), signal.size(), times, values) == affekt::Status::ok);
    pass.finish(times, values);
    CHECK_EQ(values.size(), times.size() * model->columns().size());
    return true;
  } catch (const ModelFileError& error) {
    CHECK(std::strlen(error.what()) > 10);
    return false;
  }
}

int times_more() {
  const char* text = std::getenv("AFFEKT_MUTATIONS");
  return text ? std::max(1, std::atoi(text)) : 1;
}

void damaged_bytes_are_refused() {
  std::mt19937 random(10 + static_cast<unsigned>(times_more()));
  for (const std::string name :
       {"schema1_utterance.safetensors", "schema1_trace.safetensors", "schema1_utterance_int8.safetensors",
        "schema1_speaker.safetensors", "schema1_ensemble.safetensors"}) {
    const std::string good = read_bytes(golden_path(name));
    CHECK(survives(good));
    for (int i = 0; i < 150 * times_more(); ++i) {
      std::string bytes = good;
      switch (i % 5) {
        case 0:  // truncated
          bytes.resize(random() % bytes.size());
          break;
        case 1:  // one bit
          bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
          break;
        case 2:  // a run of noise
          for (std::size_t at = random() % bytes.size(), end = std::min(bytes.size(), at + 1 + random() % 64);
               at < end; ++at)
            bytes[at] = static_cast<char>(random());
          break;
        case 3:  // bytes inserted
          bytes.insert(random() % bytes.size(), std::string(1 + random() % 16, static_cast<char>(random())));
          break;
        case 4:  // bytes removed
          bytes.erase(random() % bytes.size(), 1 + random() % 16);
          break;
      }
      // A flip in the padding or in the header's own order of keys may be harmless; nothing else is.
      if (survives(bytes)) CHECK(i % 5 == 1 || bytes == good);
    }
    for (std::size_t size = 0; size < 16; ++size) CHECK(!survives(good.substr(0, size)));
    CHECK(!survives(good + std::string(1, '\0')));
  }
}

/// Every value inside a JSON document.
void visit(Json& value, const std::function<void(Json&)>& f) {
  if (value.is_structured())
    for (Json& item : value) visit(item, f);
  f(value);
}

void hostile_cards_are_refused_or_run() {
  std::mt19937 random(4 + static_cast<unsigned>(times_more()));
  const std::vector<Json> poison = {nullptr,
                                    true,
                                    0,
                                    1,
                                    -1,
                                    2,
                                    7,
                                    0.5,
                                    -0.0,
                                    1e308,
                                    -1e308,
                                    1e-320,
                                    INT64_MAX,
                                    INT64_MIN,
                                    UINT64_MAX,
                                    1LL << 31,
                                    (1LL << 31) - 1,
                                    1 << 24,
                                    "",
                                    "x",
                                    "audio",
                                    "mel",
                                    "tcn",
                                    "softmax",
                                    std::string(5000, 'a'),
                                    Json::array(),
                                    Json::object(),
                                    Json::array({1, 2, 3}),
                                    Json::array({Json::array({Json::array()})}),
                                    Json{{"a", 1}}};
  int refused = 0, ran = 0;
  for (const std::string name :
       {"schema1_utterance.safetensors", "schema1_trace.safetensors", "schema1_utterance_int8.safetensors",
        "schema1_speaker.safetensors", "schema1_ensemble.safetensors"}) {
    const Parts good = take_apart(read_bytes(golden_path(name)));
    CHECK(survives(put_together(good)));
    for (int i = 0; i < 400 * times_more(); ++i) {
      Parts parts = good;
      for (int times = 1 + static_cast<int>(random() % 3); times > 0; --times) {
        Json& document = random() % 8 == 0 ? parts.header : parts.card;
        std::vector<Json*> values;
        visit(document, [&](Json& v) { values.push_back(&v); });
        Json& chosen = *values[random() % values.size()];
        switch (random() % 6) {
          case 0:
          case 1:
          case 2:
            chosen = poison[random() % poison.size()];
            break;
          case 3:  // a field or item goes
            if (chosen.is_object() && !chosen.empty()) {
              chosen.erase(std::next(chosen.begin(), static_cast<std::ptrdiff_t>(random() % chosen.size())));
            } else if (chosen.is_array() && !chosen.empty()) {
              chosen.erase(random() % chosen.size());
            }
            break;
          case 4:  // a field or item comes
            if (chosen.is_object()) {
              chosen["extra"] = poison[random() % poison.size()];
            } else if (chosen.is_array()) {
              chosen.push_back(poison[random() % poison.size()]);
            }
            break;
          case 5: {  // two values change places
            const Json copy = chosen;
            Json& other = *values[random() % values.size()];
            const Json kept = other;
            if (!copy.is_structured() && !kept.is_structured()) chosen = kept, other = copy;
            break;
          }
        }
      }
      if (!parts.header.is_object()) continue;
      (survives(put_together(parts)) ? ran : refused) += 1;
    }
    // Values of the tensors: anything finite runs, anything else is refused.
    for (int i = 0; i < 40 * times_more(); ++i) {
      Parts parts = good;
      for (int flips = 0; flips < 5; ++flips)
        parts.data[random() % parts.data.size()] ^= static_cast<char>(1 << random() % 8);
      (survives(put_together(parts)) ? ran : refused) += 1;
    }
  }
  std::printf("hostile cards: %d refused, %d ran\n", refused, ran);
  CHECK(refused > 200);
  CHECK(ran > 20);
}

void each_fault_is_named() {
  const Parts good = take_apart(read_bytes(golden_path("schema1_utterance.safetensors")));
  const auto expect = [&](const char* text, const std::function<void(Parts&)>& change) {
    Parts parts = good;
    change(parts);
    const std::string bytes = put_together(parts);
    CHECK_THROWS(Model::from_bytes(bytes.data(), bytes.size()), ModelFileError, text);
  };
  const auto node = [](Parts& p, const char* name) -> Json& {
    for (Json& n : p.card["nodes"])
      if (n["name"] == name) return n;
    throw std::runtime_error(name);
  };
  expect("schema 3 is not supported", [](Parts& p) { p.card["schema"] = 3; });
  expect("schema 0 is not supported", [](Parts& p) { p.card["schema"] = 0; });
  expect("'schema' is missing", [](Parts& p) { p.card.erase("schema"); });
  expect("'mystery'", [](Parts& p) { p.card["mystery"] = 1; });
  expect("unknown node type 'conv9'", [&](Parts& p) { node(p, "tcn")["type"] = "conv9"; });
  expect("node 'tcn'", [&](Parts& p) { node(p, "tcn")["options"]["glow"] = 1; });
  expect("cycle", [&](Parts& p) { node(p, "norm")["inputs"][0] = "tcn"; });
  expect("cycle", [&](Parts& p) { node(p, "norm")["inputs"][0] = "norm"; });
  expect("does not exist", [&](Parts& p) { node(p, "norm")["inputs"][0] = "nothing"; });
  expect("takes one input, got 2", [&](Parts& p) { node(p, "norm")["inputs"] = {"mel", "mel"}; });
  expect("must name 1 to 16 nodes or inputs, got 0",
         [&](Parts& p) { node(p, "norm")["inputs"] = Json::array(); });
  expect("taken", [&](Parts& p) { node(p, "norm")["name"] = "mel"; });
  expect("'name' must be", [&](Parts& p) { node(p, "norm")["name"] = "a.b"; });
  expect("must have shape (3, 27)", [&](Parts& p) {
    node(p, "tcn")["options"]["channels"] = {6, 6, 9}, node(p, "vad")["options"]["units"] = 3,
            p.card["tensors"]["vad.weight"]["shape"] = {27, 3}, p.header["vad.weight"]["shape"] = {27, 3};
  });
  expect("differ between the card and the header", [](Parts& p) {
    p.header["vad.weight"]["shape"] = {27, 3};
  });
  expect("must have shape", [&](Parts& p) { node(p, "stack")["options"]["size"] = 4; });
  expect("labels", [&](Parts& p) {
    node(p, "classes")["options"]["units"] = 3, p.card["outputs"][1]["labels"].push_back("angry");
  });
  expect("softmax", [](Parts& p) { p.card["outputs"][1]["node"] = "classes"; });
  expect("appears twice", [](Parts& p) { p.card["outputs"][0]["labels"][1] = "valence"; });
  expect("'kind' must be one of audio", [](Parts& p) { p.card["inputs"][0]["kind"] = "smell"; });
  expect("no node listens", [](Parts& p) {
    p.card["inputs"].push_back(p.card["inputs"][0]), p.card["inputs"][1]["name"] = "second";
  });
  expect("differs from the input's rate", [](Parts& p) { p.card["inputs"][0]["rate"] = 16000; });
  expect("cannot run live", [&](Parts& p) { node(p, "mel")["options"]["top_db"] = 80; });
  expect("cannot run live", [&](Parts& p) { node(p, "mel")["options"]["center"] = true; });
  expect("window", [&](Parts& p) { node(p, "mel")["options"]["window"] = "hat"; });
  expect("n_fft", [&](Parts& p) { node(p, "mel")["options"]["n_fft"] = 1 << 22; });
  expect("'window' must be an integer in [1",
         [&](Parts& p) { node(p, "pool")["options"]["window"] = 1e308; });
  expect("'window' must be an integer in [1",
         [&](Parts& p) { node(p, "pool")["options"]["window"] = UINT64_MAX; });
  expect("MiB", [&](Parts& p) {
    node(p, "pool")["options"]["window"] = 1 << 24;
    node(p, "tcn")["options"]["dilations"] = {1 << 20, 1, 1};
  });
  expect("1 GiB", [&](Parts& p) { node(p, "tcn")["options"]["dilations"] = {1 << 24, 1, 1}; });
  expect("half_life", [&](Parts& p) { node(p, "pool")["options"]["half_life"] = 0; });
  expect("'min' must not exceed", [&](Parts& p) {
    node(p, "affect")["options"] = {{"kind", "clip"}, {"min", 1}, {"max", -1}};
  });
  expect("holds NaN", [](Parts& p) {
    const float bad = NAN;
    std::memcpy(p.data.data(), &bad, 4);
  });
  expect("belongs to no node", [&](Parts& p) {
    node(p, "norm")["name"] = "normal", node(p, "stack")["inputs"][0] = "normal";
    p.card["nodes"].erase(1);
    node(p, "stack")["inputs"][0] = "mel";
  });
  expect("is missing",
         [&](Parts& p) { node(p, "norm")["name"] = "normal", node(p, "stack")["inputs"][0] = "normal"; });
  expect("no output depends on node 'classes'", [](Parts& p) {
    p.card["outputs"].erase(1);
    p.card["nodes"].erase(8);
  });
  expect("trailing bytes", [](Parts& p) { p.data += std::string(8, '\0'); });
  expect("truncated", [](Parts& p) { p.data.resize(p.data.size() - 4); });
  expect("overlap", [](Parts& p) {
    for (Json* entry : {&p.header["vad.bias"]["data_offsets"], &p.card["tensors"]["vad.bias"]["offsets"]})
      *entry = {(*entry)[0].get<int>() - 4, (*entry)[1].get<int>() - 4};
  });
  expect("F32 or I8", [](Parts& p) { p.header["vad.bias"]["dtype"] = "F16"; });
  expect("the shape needs 3", [](Parts& p) { p.header["vad.bias"]["dtype"] = "I8"; });
  expect("says 99", [](Parts& p) {
    p.card["latency"] = {{"first_estimate_s", 99}, {"hop_s", 0.06}, {"context_s", 0.9}, {"lookahead_s", 0}};
  });

  const auto expect_text = [&](const char* text, const std::string& card) {
    const std::string bytes = put_together(good, card);
    CHECK_THROWS(Model::from_bytes(bytes.data(), bytes.size()), ModelFileError, text);
  };
  const std::string card = good.card.dump();
  expect_text("appears twice", "{\"schema\":1," + card.substr(1));
  expect_text("nested deeper", "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}");
  expect_text("not valid JSON", card.substr(0, card.size() - 1));
  expect_text("not valid JSON", "{\"a\":1e999}");
  expect_text("not valid JSON", "{\"a\":NaN}");
  expect_text("must be a JSON object", "[]");

  const auto expect_bytes = [&](const char* text, const std::string& bytes) {
    CHECK_THROWS(Model::from_bytes(bytes.data(), bytes.size()), ModelFileError, text);
  };
  std::string bytes = put_together(good);
  expect_bytes("too short", "");
  expect_bytes("announces a header", "RIFF\x24\x10\x10\x10WAVEfmt ");
  bytes[bytes.size() - 1] ^= 1;
  expect_bytes("corrupt", bytes);
  const std::string foreign = std::string("\x10\0\0\0\0\0\0\0", 8) + "{\"x\":{}}        ";
  expect_bytes("not an affekt model", foreign);
  const std::string broken = std::string("\x10\0\0\0\0\0\0\0", 8) + "{\"\xff\xfe\":{}}       ";
  expect_bytes("not valid JSON", broken);
  CHECK_THROWS(Model::load(golden_path("absent.safetensors")), ModelFileError, "no such file");
  CHECK_THROWS(Model::load(golden_path("")), ModelFileError, "not a regular file");
  CHECK_THROWS(Model::load("/dev/zero"), ModelFileError, "not a regular file");
  CHECK_THROWS(Model::load(golden_path("make_schema1.py")), ModelFileError, "make_schema1.py");
}

}  // namespace

int main() {
  sha256_matches_the_standard();
  golden_files_give_their_values();
  damaged_bytes_are_refused();
  hostile_cards_are_refused_or_run();
  each_fault_is_named();
  return affekt::test::result();
}
