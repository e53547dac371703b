// The CUDA kernels of the concordance loss, run on the CPU by kernels/emulate: against two plain passes in
// double, for ragged shapes, masks and odd values; the same bits for any order of threads. Nothing here ran
// on a GPU.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "ccc.cu"
#include "check.hpp"
#include "emulated.hpp"

namespace {

using affekt::gpu::CccShape;
namespace gpu = affekt::gpu;

struct Options {
  double eps = 1e-8;
  bool mixed = false, masked = false;
  int reduction = 0;
  double offset = 0, spread = 1;
  std::size_t misaligned = 0;  // elements
};

template <class T>
struct Result {
  std::vector<T> loss, grad_pred, grad_target;
  std::vector<double> columns;
  long launches;
};

template <class T>
struct Data {
  std::vector<T> pred, target;
  std::vector<unsigned char> mask;
};

template <class T>
Data<T> make(const CccShape& shape, const Options& options, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const auto n = static_cast<std::size_t>(shape.groups * shape.steps * shape.dims);
  Data<T> data;
  for (std::size_t i = 0; i < n; ++i) {
    const double y = normal(random);
    data.target.push_back(static_cast<T>(options.offset + options.spread * y));
    data.pred.push_back(
        static_cast<T>(options.offset + options.spread * (0.6 * y + 0.5 * normal(random) + 0.1)));
    const bool valid = !options.masked || random() % 3 != 0;
    data.mask.push_back(valid);
    if (!valid) data.pred.back() = std::numeric_limits<T>::quiet_NaN();
  }
  return data;
}

// The tensors lie in vectors of bytes that begin on a boundary of 16, `misaligned` elements in.
template <class T>
struct Placed {
  std::vector<T> all;
  T* at;
  Placed(const std::vector<T>& values, std::size_t misaligned) : all(values.size() + 32) {
    std::memset(static_cast<void*>(all.data()), 0xff, all.size() * sizeof(T));
    at = all.data();
    while (reinterpret_cast<std::uintptr_t>(at) % 16 != 0) ++at;
    at += misaligned;
    std::copy(values.begin(), values.end(), at);
  }
};

template <class T>
Result<T> run(const CccShape& shape, const Data<T>& data, const Options& options, T upstream) {
  const auto n = static_cast<std::size_t>(shape.groups * shape.dims), all = data.pred.size();
  Placed<T> pred(data.pred, options.misaligned), target(data.target, options.misaligned);
  Placed<unsigned char> mask(data.mask, options.misaligned);
  Placed<T> grad_pred(std::vector<T>(all, std::nan("")), options.misaligned);
  Placed<T> grad_target(std::vector<T>(all, std::nan("")), options.misaligned);
  Result<T> result;
  result.columns.assign(n * gpu::ccc_values, std::nan(""));
  result.loss.assign(options.reduction == 2 ? n : 1, static_cast<T>(std::nan("")));
  affekt::test::Workspace workspace(gpu::ccc_workspace(shape));
  const unsigned char* const of_mask = options.masked ? mask.at : nullptr;
  const long before = gpu::emulate::launches();
  CHECK(gpu::ccc_forward<T>(shape, pred.at, target.at, of_mask, options.eps, options.mixed, options.reduction,
                            result.columns.data(), result.loss.data(), workspace.data(), nullptr) == nullptr);
  result.launches = gpu::emulate::launches() - before;
  const std::vector<T> up(result.loss.size(), upstream);
  CHECK(gpu::ccc_backward<T>(shape, pred.at, target.at, of_mask, result.columns.data(), up.data(),
                             up.size() == 1, grad_pred.at, grad_target.at, nullptr) == nullptr);
  result.grad_pred.assign(grad_pred.at, grad_pred.at + all);
  result.grad_target.assign(grad_target.at, grad_target.at + all);
  // Nothing beyond the end was written.
  for (const T* p = grad_pred.at + all; p < grad_pred.all.data() + grad_pred.all.size(); ++p)
    CHECK(std::isnan(*p));
  return result;
}

template <class T>
void check_against_loops(const CccShape& shape, const Options& options, double tolerance, unsigned seed) {
  const Data<T> data = make<T>(shape, options, seed);
  const Result<T> got = run<T>(shape, data, options, static_cast<T>(1.5));
  const auto groups = static_cast<std::size_t>(shape.groups), steps = static_cast<std::size_t>(shape.steps),
             dims = static_cast<std::size_t>(shape.dims);
  std::vector<double> loss(groups * dims), grad_p(data.pred.size()), grad_y(data.pred.size());
  double counted = 0;
  for (std::size_t g = 0; g < groups; ++g) {
    for (std::size_t k = 0; k < dims; ++k) {
      const auto at = [&](std::size_t t) { return (g * steps + t) * dims + k; };
      double n = 0, mean_p = 0, mean_y = 0, pp = 0, yy = 0, py = 0;
      for (std::size_t t = 0; t < steps; ++t) {
        if (data.mask[at(t)] == 0) continue;
        n += 1;
        mean_p += static_cast<double>(data.pred[at(t)]);
        mean_y += static_cast<double>(data.target[at(t)]);
      }
      if (n == 0) continue;
      counted += 1;
      mean_p /= n, mean_y /= n;
      for (std::size_t t = 0; t < steps; ++t) {
        if (data.mask[at(t)] == 0) continue;
        const double p = static_cast<double>(data.pred[at(t)]) - mean_p,
                     y = static_cast<double>(data.target[at(t)]) - mean_y;
        pp += p * p, yy += y * y, py += p * y;
      }
      const double freedom = options.mixed ? std::max(n - 1, 1.0) : n, apart = mean_p - mean_y;
      const double below = (pp + yy) / freedom + apart * apart + options.eps;
      const double ccc = below == 0 ? 0 : 2 * py / n / below;
      loss[g * dims + k] = 1 - ccc;
      for (std::size_t t = 0; t < steps; ++t) {
        if (data.mask[at(t)] == 0 || below == 0) continue;
        const double p = static_cast<double>(data.pred[at(t)]) - mean_p,
                     y = static_cast<double>(data.target[at(t)]) - mean_y;
        grad_p[at(t)] = -2 / (n * below) * y + ccc * (2 * p / freedom + 2 * apart / n) / below;
        grad_y[at(t)] = -2 / (n * below) * p + ccc * (2 * y / freedom - 2 * apart / n) / below;
      }
    }
  }
  double weight = 1;
  if (options.reduction == 0 && counted > 0) weight = 1 / counted;
  double total = 0;
  for (std::size_t i = 0; i < loss.size(); ++i) {
    total += loss[i] * weight;
    if (options.reduction == 2) CHECK_NEAR(static_cast<double>(got.loss[i]), loss[i], tolerance);
  }
  if (options.reduction != 2)
    CHECK_NEAR(static_cast<double>(got.loss[0]), total, tolerance * std::max(1.0, total));
  double largest = 0;
  for (const double g : grad_p) largest = std::max(largest, std::abs(g));
  for (std::size_t i = 0; i < grad_p.size(); ++i) {
    CHECK_NEAR(static_cast<double>(got.grad_pred[i]), 1.5 * weight * grad_p[i],
               4 * tolerance * weight * largest);
    CHECK_NEAR(static_cast<double>(got.grad_target[i]), 1.5 * weight * grad_y[i],
               4 * tolerance * weight * (largest + std::abs(grad_y[i])));
  }

  // Any order of threads, the same bits.
  gpu::emulate::order() = seed + 1;
  const Result<T> again = run<T>(shape, data, options, static_cast<T>(1.5));
  gpu::emulate::order() = 0;
  const auto same = [](const auto& a, const auto& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0);
  };
  CHECK(same(got.loss, again.loss) && same(got.columns, again.columns));
  CHECK(same(got.grad_pred, again.grad_pred) && same(got.grad_target, again.grad_target));
}

template <class T>
void check_all(double tolerance) {
  unsigned seed = 1;
  const CccShape shapes[] = {
      {1, 1, 1},     {1, 2, 1},  {3, 7, 1},     {5, 100, 2},  {33, 50, 3}, {1, 40000, 1}, {2, 20001, 2},
      {1, 17003, 3}, {4, 9, 40}, {2, 300, 130}, {3, 41, 515}, {70, 30, 2}, {1, 3, 1040},  {3, 5000, 7},
  };
  for (const CccShape& shape : shapes) {
    for (int v = 0; v < 4; ++v) {
      Options options;
      options.reduction = v % 3;
      options.mixed = v == 1;
      options.masked = v >= 2;
      options.misaligned = v == 3 ? 1 : 0;
      check_against_loops<T>(shape, options, tolerance, ++seed);
    }
  }
}

}  // namespace

int main() {
  check_all<float>(2e-6);
  check_all<double>(1e-12);

  // Far from zero the sums hold: about an element of the data, not about 0.
  Options far;
  far.offset = 1e4, far.spread = 1e-2;
  check_against_loops<double>({1, 20000, 1}, far, 1e-9, 5);

  // Launches: one where it is small, two where it is not.
  const auto launches = [](const CccShape& shape) {
    return run<float>(shape, make<float>(shape, {}, 3), {}, 1.0f).launches;
  };
  CHECK_EQ(launches({8, 100, 2}), 1);
  CHECK_EQ(launches({1, 16384, 1}), 1);
  CHECK_EQ(launches({1, 16385, 1}), 2);
  CHECK_EQ(launches({100, 300, 2}), 2);

  // The emulated machine stops where the GPU would: at a pack that is not aligned to its size.
  alignas(16) float packs[8] = {};
  gpu::store_pack<4>(packs + 4, gpu::load_pack<4>(packs));
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(0);
    gpu::load_pack<4>(packs + 1);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);

  // Windows of nothing: no column counts. Constant data: loss 1, gradient 0.
  for (const CccShape& shape : {CccShape{3, 0, 2}, CccShape{0, 5, 2}, CccShape{1, 0, 1}, CccShape{2, 5, 0}}) {
    const Result<float> got = run<float>(shape, make<float>(shape, {}, 1), {}, 1.0f);
    CHECK_EQ(got.loss[0], 0.0f);
  }
  Data<float> same{{2, 2, 2}, {2, 2, 2}, {1, 1, 1}};
  Options exact;
  exact.eps = 0;
  Result<float> got = run<float>({1, 3, 1}, same, exact, 1.0f);
  CHECK_EQ(got.loss[0], 1.0f);
  CHECK_EQ(got.grad_pred[1], 0.0f);
  // A window that is masked out does not count, whatever it holds; a NaN in a valid step shows.
  Data<float> half{{1, 2, 4, NAN, NAN, NAN}, {1, 2, 3, NAN, 1, 2}, {1, 1, 1, 0, 0, 0}};
  Options masked;
  masked.masked = true;
  got = run<float>({2, 3, 1}, half, masked, 1.0f);
  Data<float> alone{{1, 2, 4}, {1, 2, 3}, {1, 1, 1}};
  const Result<float> only = run<float>({1, 3, 1}, alone, {}, 1.0f);
  CHECK_EQ(got.loss[0], only.loss[0]);
  CHECK_EQ(got.grad_pred[4], 0.0f);
  half.mask[4] = 1;
  CHECK(std::isnan(run<float>({2, 3, 1}, half, masked, 1.0f).loss[0]));
  return affekt::test::result();
}
