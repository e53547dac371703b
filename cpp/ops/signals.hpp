// What the ops of signals share: plans by their options, and the rows of a batch on torch's threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tensors.hpp"

namespace affekt {

/// The plan of an options text. Plans are immutable and cost some tables, and a program uses a few of them,
/// so the last ones stay; a plan in use outlives its place here.
template <class Plan, class Options, auto... of>
std::shared_ptr<const Plan> plan_of(const std::string& options) {
  constexpr std::size_t kept = 8;
  static std::mutex mutex;
  static std::list<std::pair<std::string, std::shared_ptr<const Plan>>> plans;
  const std::lock_guard lock(mutex);
  for (auto it = plans.begin(); it != plans.end(); ++it) {
    if (it->first == options) {
      plans.splice(plans.begin(), plans, it);
      return plans.front().second;
    }
  }
  plans.emplace_front(options, std::make_shared<const Plan>(Options::from_json(options), of...));
  if (plans.size() > kept) plans.pop_back();
  return plans.front().second;
}

/// f(r) for every row of the batch on torch's threads. The first row that fails reports, whatever the threads
/// do: an exception must not cross torch's C interface.
template <class F>
void each_row(std::int64_t rows, F&& f) {
  std::mutex mutex;
  std::int64_t failed = rows;
  std::exception_ptr error;
  torch::stable::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      try {
        f(static_cast<std::size_t>(r));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (r < failed) {
          failed = r;
          error = std::current_exception();
        }
        return;
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

/// Signals (..., time) as rows.
struct Batch {
  explicit Batch(const torch::stable::Tensor& signal) : dense(affekt::dense(signal)) {
    if (signal.dim() < 1)
      throw InvalidArgument("signal: expected shape (..., time), got a scalar (0 dimensions)");
    for (std::int64_t d = 0; d + 1 < dense.dim(); ++d) {
      lead.push_back(dense.size(d));
      rows *= dense.size(d);
    }
    time = static_cast<std::size_t>(dense.size(dense.dim() - 1));
  }
  torch::stable::Tensor dense;
  std::vector<std::int64_t> lead;
  std::int64_t rows = 1;
  std::size_t time = 0;
};

/// Signals (..., channels, time).
struct Recordings : Batch {
  explicit Recordings(const torch::stable::Tensor& signal) : Batch(signal) {
    if (lead.empty())
      throw InvalidArgument("signal: expected shape (..., channels, time), got " + shape_of(signal));
    channels = lead.back();
    lead.pop_back();
    count = 1;
    for (const std::int64_t n : lead) count *= n;
  }
  std::vector<std::int64_t> shape(std::initializer_list<std::size_t> last) const {
    std::vector<std::int64_t> all = lead;
    for (const std::size_t n : last) all.push_back(static_cast<std::int64_t>(n));
    return all;
  }
  std::int64_t channels, count;
};

}  // namespace affekt
