// The front end: stream against offline, no allocation per step, bad
// options.
#include "affekt/frontend.hpp"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "allocations.hpp"
#include "check.hpp"

namespace {

using affekt::FrontEnd;
using affekt::FrontEndOptions;
using affekt::FrontEndStream;
using affekt::test::allocations;

std::vector<float> noise(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.1f);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

// Pushes pieces of random sizes, takes rows singly or in blocks, and counts the allocations on the way.
template <class S>
std::vector<float> streamed(FrontEndStream& stream, const std::vector<S>& x, unsigned seed, long& allocated) {
  const std::size_t width = stream.plan().features();
  std::vector<float> out(stream.plan().frames(x.size()) * width);
  std::mt19937 random(seed);
  std::size_t at = 0, row = 0;
  const long before = allocations;
  while (at < x.size()) {
    const std::size_t want = std::min<std::size_t>(x.size() - at, random() % 700);
    at += stream.push(x.data() + at, want);
    if (random() % 2 == 0) {
      while (stream.ready() > 0) row += stream.next(out.data() + row * width) ? 1 : 0;
    } else {
      row += stream.next(out.data() + row * width, 1 + random() % 9);
    }
  }
  while (stream.next(out.data() + std::min(row, out.size() / width - 1) * width)) ++row;
  allocated = allocations - before;
  CHECK_EQ(row * width, out.size());
  CHECK_EQ(stream.rows(), row);
  CHECK_EQ(stream.samples(), x.size());
  return out;
}

void stream_has_the_bits_of_offline_and_never_allocates() {
  std::vector<FrontEndOptions> all(8);
  all[1].preemphasis = 0.97;
  all[1].span = affekt::FrameSpan::win_length;
  all[2].n_fft = 400;
  all[2].log = affekt::LogMode::log10;
  all[2].log_shift = 4.0;
  all[2].log_scale = 0.25;
  all[3].n_fft = 509;  // prime: Bluestein, in double
  all[3].preemphasis = 0.9;
  all[4].n_fft = 400;  // hop longer than a frame
  all[4].hop_length = 977;
  all[4].preemphasis = 0.5;
  all[5].window = affekt::Window::povey;
  all[5].periodic = false;
  all[5].mel_scale = affekt::MelScale::kaldi;
  all[5].mel_norm = affekt::MelNorm::none;
  all[5].span = affekt::FrameSpan::win_length;
  all[5].remove_dc = true;
  all[5].preemphasis = 0.97;
  all[5].preemphasis_mode = affekt::PreemphasisMode::frame;
  all[5].log = affekt::LogMode::ln;
  all[5].n_mfcc = 13;
  all[5].lifter = 22;
  all[5].energy = affekt::EnergyMode::raw;
  all[6].n_fft = 1;
  all[6].win_length = 1;
  all[6].hop_length = 1;
  all[6].n_mels = 1;
  all[6].log = affekt::LogMode::none;
  all[7].power = 1.0;
  all[7].n_fft = 441;
  all[7].hop_length = 441;

  const std::vector<float> x = noise(20000, 1);
  std::vector<std::int16_t> pcm;
  std::vector<float> scaled;
  for (const float v : x) {
    pcm.push_back(static_cast<std::int16_t>(std::lround(v * 32767.0f)));
    scaled.push_back(static_cast<float>(pcm.back()) / 32768.0f);
  }
  for (const FrontEndOptions& o : all) {
    const long before = allocations;
    const auto plan = std::make_shared<const FrontEnd>(o);
    // The counter sees into the library.
    if (affekt::test::counts_allocations) CHECK(allocations > before + 10);
    const std::size_t size = plan->frames(x.size()) * plan->features();
    std::vector<float> offline(size), offline_pcm(size), offline_scaled(size);
    plan->compute(x.data(), x.size(), offline.data());
    plan->compute(pcm.data(), pcm.size(), offline_pcm.data());
    plan->compute(scaled.data(), scaled.size(), offline_scaled.data());
    CHECK(std::memcmp(offline_pcm.data(), offline_scaled.data(), size * sizeof(float)) == 0);
    for (const std::size_t capacity : {0, 1, 333, 16000}) {
      FrontEndStream stream(plan, capacity);
      for (unsigned seed = 0; seed < 3; ++seed) {
        long allocated = 0;
        const std::vector<float> live = streamed(stream, x, seed, allocated);
        CHECK(std::memcmp(live.data(), offline.data(), size * sizeof(float)) == 0);
        CHECK_EQ(allocated, 0L);
        stream.reset();
        const std::vector<float> live_pcm = streamed(stream, pcm, seed, allocated);
        CHECK(std::memcmp(live_pcm.data(), offline_pcm.data(), size * sizeof(float)) == 0);
        CHECK_EQ(allocated, 0L);
        stream.reset();
      }
    }
  }
}

void stream_bytes_are_what_a_stream_allocates() {
  for (const int n_fft : {512, 997, 4096, 131071}) {
    FrontEndOptions options;
    options.n_fft = n_fft;
    const auto plan = std::make_shared<const FrontEnd>(options);
    for (const std::size_t capacity : {0, 1, 16000}) {
      const std::size_t before = affekt::test::allocated_bytes;
      const FrontEndStream stream(plan, capacity);
      const std::size_t taken = affekt::test::allocated_bytes - before;
      if (affekt::test::counts_allocations) CHECK_EQ(taken, plan->stream_bytes(capacity));
    }
  }
}

void rows_come_as_soon_as_their_frame_is_whole() {
  const auto plan = std::make_shared<const FrontEnd>(FrontEndOptions{});
  FrontEndStream stream(plan, 0);
  std::vector<float> row(plan->features());
  const std::vector<float> x(4000, 0.1f);
  CHECK_EQ(plan->latency_samples(), 512);
  CHECK_EQ(stream.push(x.data(), 511), std::size_t{511});
  CHECK(!stream.next(row.data()));
  CHECK_EQ(stream.push(x.data(), 1), std::size_t{1});
  CHECK_EQ(stream.ready(), std::size_t{1});
  CHECK(stream.next(row.data()));
  CHECK(!stream.next(row.data()));
  CHECK_EQ(stream.last_sample(0), std::uint64_t{511});
  CHECK_EQ(stream.last_sample(7), std::uint64_t{511 + 7 * 160});
  // A full buffer takes what fits and says so.
  CHECK(stream.push(x.data(), 4000) < 4000);
  CHECK_EQ(stream.push(x.data(), 0), std::size_t{0});
  CHECK(stream.ready() > 0);
}

void options_survive_json() {
  FrontEndOptions o;
  o.sample_rate = 44100;
  o.window = affekt::Window::blackman;
  o.mel_norm = affekt::MelNorm::none;
  o.f_max = 8000.5;
  o.floor = 1e-10;
  o.ref_max = true;
  o.top_db = 80;
  o.energy = affekt::EnergyMode::windowed;
  o.delta_mode = affekt::DeltaMode::regression;
  const std::string text = o.to_json();
  CHECK_EQ(FrontEndOptions::from_json(text).to_json(), text);
  CHECK_EQ(FrontEndOptions::from_json("{}").to_json(), FrontEndOptions{}.to_json());
  CHECK(o.to_string().find("ref = \"max\"") != std::string::npos);
  const auto read = &FrontEndOptions::from_json;
  CHECK_THROWS(read("{\"hop\": 3}"), affekt::InvalidArgument, "unknown option \"hop\"");
  CHECK_THROWS(read("[1]"), affekt::InvalidArgument, "JSON object");
  CHECK_THROWS(read("{"), affekt::InvalidArgument, "JSON object");
  CHECK_THROWS(read("{\"n_fft\": 512.5}"), affekt::InvalidArgument, "n_fft: expected an integer");
  CHECK_THROWS(read("{\"n_fft\": 99999999999}"), affekt::InvalidArgument, "32 bits");
  CHECK_THROWS(read("{\"n_fft\": -99999999999}"), affekt::InvalidArgument, "32 bits");
  CHECK_THROWS(read("{\"window\": \"sine\"}"), affekt::InvalidArgument, "window: expected one of \"hann\"");
  CHECK_THROWS(read("{\"window\": null}"), affekt::InvalidArgument, "window");
  CHECK_THROWS(read("{\"center\": 1}"), affekt::InvalidArgument, "center: expected true or false");
  CHECK_THROWS(read("{\"ref\": \"min\"}"), affekt::InvalidArgument, "ref");
  CHECK_THROWS(read("{\"f_max\": \"x\"}"), affekt::InvalidArgument, "f_max: expected a number or null");
}

void bad_options_and_samples_are_named() {
  const auto make = [](auto change) {
    FrontEndOptions o;
    change(o);
    FrontEnd plan(o);
  };
  CHECK_THROWS(make([](auto& o) { o.hop_length = 0; }), affekt::InvalidArgument, "hop_length");
  CHECK_THROWS(make([](auto& o) { o.win_length = 513; }), affekt::InvalidArgument, "win_length");
  CHECK_THROWS(make([](auto& o) { o.f_max = 8000.1; }), affekt::InvalidArgument, "f_max");
  CHECK_THROWS(make([](auto& o) { o.n_mels = 0; }), affekt::InvalidArgument, "n_mels");
  CHECK_THROWS(make([](auto& o) { o.floor = -1.0; }), affekt::InvalidArgument, "floor");
  CHECK_THROWS(make([](auto& o) { o.sample_rate = std::nan(""); }), affekt::InvalidArgument, "sample_rate");
  CHECK_THROWS(make([](auto& o) { o.scale = 1e12, o.power = 4; }), affekt::InvalidArgument, "scale");

  std::vector<float> x(1000, 0.0f), out(1000 * 80);
  const auto plan = std::make_shared<const FrontEnd>(FrontEndOptions{});
  x[700] = INFINITY;
  CHECK_EQ(affekt::first_non_finite(x.data(), x.size()), std::size_t{700});
  CHECK_EQ(plan->first_unusable(x.data(), x.size()), std::size_t{700});
  CHECK_THROWS(plan->compute(x.data(), x.size(), out.data()), affekt::InvalidArgument,
               "got inf at index 700");
  x[700] = NAN;
  CHECK_THROWS(plan->compute(x.data(), x.size(), out.data()), affekt::InvalidArgument, "index 700");
  x[700] = 1e30f;
  CHECK_EQ(affekt::first_non_finite(x.data(), x.size()), std::size_t{1000});
  CHECK_EQ(plan->first_unusable(x.data(), x.size()), std::size_t{700});
  plan->compute(x.data(), 0, out.data());  // nothing in, nothing out
  FrontEndOptions sloped;
  sloped.deltas = 2;
  FrontEnd(sloped).compute(x.data(), 0, static_cast<float*>(nullptr));

  FrontEndOptions o;
  o.center = true;
  o.top_db = 80;
  std::string reason;
  const auto whole = std::make_shared<const FrontEnd>(o);
  CHECK(!whole->streamable(&reason));
  CHECK(reason.find("center") != std::string::npos && reason.find("top_db") != std::string::npos);
  CHECK_THROWS(FrontEndStream(whole, 1), affekt::NotStreamable, "top_db");
  CHECK_THROWS(FrontEndStream(nullptr, 1), affekt::InvalidArgument, "plan");
}

}  // namespace

int main() {
  stream_has_the_bits_of_offline_and_never_allocates();
  stream_bytes_are_what_a_stream_allocates();
  rows_come_as_soon_as_their_frame_is_whole();
  options_survive_json();
  bad_options_and_samples_are_named();
  return affekt::test::result();
}
