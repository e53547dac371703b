// The live front end as bench_frontend.py calls it from C++: one push of a hop after the other.
#include <memory>

#include "affekt/frontend.hpp"

extern "C" {

/// A stream of the front end with these options, as JSON; it lives as long as the process.
void* hop_create(const char* options) {
  return new affekt::FrontEndStream(
      std::make_shared<const affekt::FrontEnd>(affekt::FrontEndOptions::from_json(options)));
}

/// Pushes `count` hops of `hop` samples, takes the rows after each, and returns how many they were.
int hop_push(void* handle, const float* x, int hop, int count, float* rows) {
  auto& stream = *static_cast<affekt::FrontEndStream*>(handle);
  const std::size_t width = stream.plan().features();
  int done = 0;
  for (int i = 0; i < count; ++i) {
    stream.push(x + static_cast<std::size_t>(i) * hop, static_cast<std::size_t>(hop));
    while (stream.next(rows + done * width)) ++done;
  }
  return done;
}
}
