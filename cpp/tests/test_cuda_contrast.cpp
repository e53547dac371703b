// The CUDA kernels of the contrastive losses, run on the CPU by kernels/emulate: against plain loops in
// double, for ragged sizes, every option and every number format; the same bits for any order of threads.
// Nothing here ran on a GPU.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "check.hpp"
#include "contrast.cu"
#include "emulated.hpp"

namespace {

using namespace affekt::gpu;
using Values = std::vector<double>;

struct Case {
  const char* name;
  Wide rows, dim, extra = 0;
  double scale = 5;
  Wide shift = 0;
  bool exclude = false, columns = true;
  int classes = 0;  // SupCon if not 0
  Wide budget = 1 << 30;
};

struct Answer {
  double loss = 0, grad_scale = 0;
  Values grad_a, grad_b;
};

Values unit_rows(const Values& x, Wide rows, Wide dim, Values& norm) {
  Values unit(x.size());
  norm.assign(static_cast<std::size_t>(rows), 0);
  for (Wide i = 0; i < rows; ++i) {
    double square = 0;
    for (Wide d = 0; d < dim; ++d) square += x[i * dim + d] * x[i * dim + d];
    norm[i] = std::max(std::sqrt(square), 1e-12);
    for (Wide d = 0; d < dim; ++d) unit[i * dim + d] = x[i * dim + d] / norm[i];
  }
  return unit;
}

// The loss from its definition; the gradient from the derivative of every logit.
Answer reference(const Case& c, const Values& a, const Values& b_or_none, const Values& negatives,
                 const std::vector<long long>& labels) {
  const bool supervised = c.classes != 0;
  const Values& b = supervised ? a : b_or_none;
  Values norm_a, norm_b, norm_n;
  const Values u = unit_rows(a, c.rows, c.dim, norm_a), v = unit_rows(b, c.rows, c.dim, norm_b),
               w = unit_rows(negatives, c.extra, c.dim, norm_n);
  const Wide n = c.rows, all = n + c.extra;
  const auto candidate = [&](Wide j) { return j < n ? &v[j * c.dim] : &w[(j - n) * c.dim]; };
  Values cosine(n * all), grad(n * all);
  for (Wide i = 0; i < n; ++i) {
    for (Wide j = 0; j < all; ++j) {
      for (Wide d = 0; d < c.dim; ++d) cosine[i * all + j] += u[i * c.dim + d] * candidate(j)[d];
    }
  }
  Answer answer;
  const auto counts = [&](Wide i, Wide j) { return !((c.exclude || supervised) && i == j); };
  // One anchor: its candidates by at(k), its positives by share(k).
  const auto anchor = [&](Wide size, double weight, const auto& at, const auto& in, const auto& share) {
    double top = -HUGE_VAL, sum = 0;
    for (Wide k = 0; k < size; ++k) {
      if (in(k)) top = std::max(top, c.scale * cosine[at(k)]);
    }
    for (Wide k = 0; k < size; ++k) {
      if (in(k)) sum += std::exp(c.scale * cosine[at(k)] - top);
    }
    double matched = 0;
    for (Wide k = 0; k < size; ++k) {
      matched += share(k) * c.scale * cosine[at(k)];
      grad[at(k)] += weight * ((in(k) ? std::exp(c.scale * cosine[at(k)] - top) / sum : 0) - share(k));
    }
    answer.loss += weight * (top + std::log(sum) - matched);
  };
  if (supervised) {
    Values pairs(n);
    double anchors = 0;
    for (Wide i = 0; i < n; ++i) {
      for (Wide j = 0; j < n; ++j) pairs[i] += i != j && labels[i] == labels[j];
      anchors += pairs[i] > 0;
    }
    for (Wide i = 0; i < n; ++i) {
      if (pairs[i] > 0)
        anchor(
            all, 1 / anchors, [&](Wide j) { return i * all + j; }, [&](Wide j) { return counts(i, j); },
            [&](Wide j) { return j < n && j != i && labels[i] == labels[j] ? 1 / pairs[i] : 0; });
    }
  } else {
    const double weight = 1.0 / static_cast<double>(n);
    for (Wide i = 0; i < n; ++i) {
      anchor(
          all, weight, [&](Wide j) { return i * all + j; }, [&](Wide j) { return counts(i, j); },
          [&](Wide j) { return j == (i + c.shift) % n ? 1.0 : 0.0; });
    }
    for (Wide j = 0; c.columns && j < n; ++j) {
      anchor(
          n, weight, [&](Wide i) { return i * all + j; }, [&](Wide i) { return counts(i, j); },
          [&](Wide i) { return j == (i + c.shift) % n ? 1.0 : 0.0; });
    }
  }
  Values du(n * c.dim), dv(n * c.dim);
  for (Wide i = 0; i < n; ++i) {
    for (Wide j = 0; j < all; ++j) {
      answer.grad_scale += grad[i * all + j] * cosine[i * all + j];
      for (Wide d = 0; d < c.dim; ++d) {
        du[i * c.dim + d] += c.scale * grad[i * all + j] * candidate(j)[d];
        if (j < n) dv[j * c.dim + d] += c.scale * grad[i * all + j] * u[i * c.dim + d];
      }
    }
  }
  const auto through = [&](Values& g, const Values& unit, const Values& norm) {
    for (Wide i = 0; i < n; ++i) {
      double dot = 0;
      for (Wide d = 0; d < c.dim; ++d) dot += g[i * c.dim + d] * unit[i * c.dim + d];
      for (Wide d = 0; d < c.dim; ++d)
        g[i * c.dim + d] = (g[i * c.dim + d] - dot * unit[i * c.dim + d]) / norm[i];
    }
  };
  if (supervised) {
    for (std::size_t e = 0; e < du.size(); ++e) du[e] += dv[e];
  }
  through(du, u, norm_a), through(dv, v, norm_b);
  answer.grad_a = du, answer.grad_b = dv;
  return answer;
}

// Values of one format on boundaries of 256 bytes, with rubbish around.
template <class In>
struct Rows {
  std::vector<In> all;
  In* at;
  explicit Rows(const Values& values) : all(values.size() + 256) {
    std::memset(static_cast<void*>(all.data()), 0xff, all.size() * sizeof(In));
    at = all.data();
    while (reinterpret_cast<std::uintptr_t>(at) % 256 != 0) ++at;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if constexpr (std::is_same_v<In, double>)
        at[i] = values[i];
      else
        round_to(static_cast<float>(values[i]), at[i]);
    }
  }
  Values back(std::size_t n) const {
    Values values(n);
    for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<double>(to_float(at[i]));
    return values;
  }
};

template <class In>
constexpr Number number_of() {
  return std::is_same_v<In, double> ? Number::float64
         : std::is_same_v<In, Bf16> ? Number::bfloat16
         : std::is_same_v<In, Half> ? Number::float16
                                    : Number::float32;
}

template <class In>
Answer run(const Case& c, bool tf32, const Rows<In>& a, const Rows<In>& b, const Rows<In>& negatives,
           const std::vector<long long>& labels, bool for_a = true, bool for_b = true) {
  using Value = std::conditional_t<std::is_same_v<In, double>, double, float>;
  const auto size = static_cast<std::size_t>(c.rows * c.dim);
  using Out = std::conditional_t<std::is_same_v<In, Half>, float, In>;
  Rows<Out> grad_a(Values(size, std::nan(""))), grad_b(Values(size, std::nan("")));
  const Value scale = static_cast<Value>(c.scale);
  Value loss = std::numeric_limits<Value>::quiet_NaN(), grad_scale = loss;
  const bool supervised = c.classes != 0;
  const Contrast task{number_of<In>(),
                      tf32,
                      c.rows,
                      c.dim,
                      c.extra,
                      a.at,
                      supervised ? nullptr : b.at,
                      negatives.at,
                      supervised ? labels.data() : nullptr,
                      &scale,
                      c.shift,
                      c.exclude,
                      c.columns,
                      1.0 / static_cast<double>(c.rows),
                      c.budget,
                      &loss,
                      for_a ? grad_a.at : nullptr,
                      for_b ? grad_b.at : nullptr,
                      &grad_scale};
  affekt::test::Workspace workspace(contrast_workspace(task));
  CHECK(contrast_run(task, workspace.data(), nullptr) == nullptr);
  Answer answer{static_cast<double>(loss), static_cast<double>(grad_scale), {}, {}};
  if (for_a) answer.grad_a = grad_a.back(size);
  if (for_b && !supervised) answer.grad_b = grad_b.back(size);
  return answer;
}

double largest(const Values& x) {
  double most_of = 0;
  for (const double v : x) most_of = std::max(most_of, std::abs(v));
  return most_of;
}

template <class In>
void check(const Case& c, bool tf32, double of_loss, double of_gradient, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const auto values = [&](Wide n) {
    Values x(static_cast<std::size_t>(n));
    for (double& v : x) v = normal(random);
    return x;
  };
  const Rows<In> a(values(c.rows * c.dim)), b(values(c.rows * c.dim)), negatives(values(c.extra * c.dim));
  std::vector<long long> labels;
  for (Wide i = 0; i < c.rows; ++i)
    labels.push_back(static_cast<long long>(random()) % std::max(c.classes, 1));
  const auto size = static_cast<std::size_t>(c.rows * c.dim);
  const Answer expected = reference(c, a.back(size), b.back(size),
                                    negatives.back(static_cast<std::size_t>(c.extra * c.dim)), labels);
  const Answer got = run<In>(c, tf32, a, b, negatives, labels);
  const int before = affekt::test::failures();
  CHECK_NEAR(got.loss, expected.loss, of_loss * std::max(1.0, std::abs(expected.loss)));
  CHECK_NEAR(got.grad_scale, expected.grad_scale, 4 * of_loss);
  const auto compare = [&](const Values& ours, const Values& theirs) {
    // Gradients are differences of terms of about scale / rows.
    const double bound =
        of_gradient * std::max(largest(theirs), 1e-2 * c.scale / static_cast<double>(c.rows));
    double worst = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      const double apart = std::abs(ours[i] - theirs[i]);
      worst = apart <= worst ? worst : apart;  // NaN stays
    }
    CHECK_NEAR(worst, 0, bound);
  };
  compare(got.grad_a, expected.grad_a);
  compare(got.grad_b, expected.grad_b);
  if (affekt::test::failures() != before)
    std::fprintf(stderr, "  in %s, number %d%s\n", c.name, static_cast<int>(number_of<In>()),
                 tf32 ? " tf32" : "");
}

const Case cases[] = {
    {"one row", 1, 3},
    {"one feature", 5, 1},
    {"ragged", 131, 37},
    {"one-sided with a queue", 70, 24, 75, 5, 0, false, false},
    {"two views, itself excluded", 66, 16, 0, 5, 33, true},
    {"free form", 67, 20, 0, 100},
    {"free form, one-sided, excluded, queue", 40, 9, 133, 60, 0, true, false},
    {"SupCon", 140, 18, 0, 8, 0, false, false, 40},
    {"SupCon, queue, free form", 65, 8, 70, 50, 0, false, false, 9},
};

// More rows than a chunk takes.
const Case chunks[] = {
    {"chunks", 300, 12, 0, 5, 0, false, true, 0, 1},
    {"SupCon in chunks", 270, 8, 30, 5, 0, false, false, 50, 1},
};

}  // namespace

int main() {
  unsigned seed = 0;
  for (const Case& c : cases) {
    check<double>(c, false, 1e-12, 1e-10, ++seed);
    check<float>(c, false, 4e-6, 2e-4, ++seed);
  }
  // Rounded operands: the loss is off by the rounding of the cosines times the scale.
  for (const Case& c : cases) {
    check<float>(c, true, 1e-3 * c.scale, 2e-2, ++seed);
    check<Bf16>(c, false, 4e-3 * c.scale, 5e-2, ++seed);
    check<Half>(c, false, 5e-4 * c.scale, 2e-2, ++seed);
  }
  for (const Case& c : chunks) {
    check<double>(c, false, 1e-12, 1e-10, ++seed);
    check<Bf16>(c, false, 4e-3 * c.scale, 5e-2, ++seed);
  }

  // Any order of threads, the same bits; a gradient that nobody wants changes nothing else.
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  Values x(150 * 20), y(150 * 20);
  for (double& v : x) v = normal(random);
  for (double& v : y) v = normal(random);
  const Rows<Bf16> a(x), b(y), none(Values{});
  const Case c{"order", 150, 20};
  const Answer first = run<Bf16>(c, false, a, b, none, {});
  emulate::order() = 11;
  const Answer second = run<Bf16>(c, false, a, b, none, {});
  emulate::order() = 0;
  CHECK(first.loss == second.loss && first.grad_scale == second.grad_scale);
  CHECK(first.grad_a == second.grad_a && first.grad_b == second.grad_b);
  const Answer only_b = run<Bf16>(c, false, a, b, none, {}, false, true);
  CHECK(only_b.loss == first.loss && only_b.grad_b == first.grad_b);
  const Answer value = run<Bf16>(c, false, a, b, none, {}, false, false);
  CHECK(value.loss == first.loss);

  // A row of zeros has cosine 0 with all; NaN in one shows in the loss.
  const auto loss_with = [&](double at_0) {
    Values odd = x;
    for (int d = 0; d < 20; ++d) odd[static_cast<std::size_t>(d)] = at_0;
    return run<float>(c, false, Rows<float>(odd), Rows<float>(y), Rows<float>(Values{}), {}, false, false)
        .loss;
  };
  CHECK(std::isfinite(loss_with(0)));
  CHECK(std::isnan(loss_with(std::nan(""))));
  CHECK(std::isnan(loss_with(HUGE_VAL)));

  // So does a scale that is no positive number, in the gradients too.
  for (const double scale : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    Case odd{"scale", 20, 20};
    odd.scale = scale;
    const Answer got = run<float>(odd, false, Rows<float>(x), Rows<float>(y), Rows<float>(Values{}), {});
    CHECK(std::isnan(got.loss) && std::isnan(got.grad_scale));
    CHECK(std::isnan(got.grad_a[0]) && std::isnan(got.grad_b[399]));
  }

  // Working memory: no more than 4 N D floats for 16-bit embeddings, whatever the budget allows; values alone
  // need no matrix of gradients.
  for (const Wide n : {Wide{8192}, Wide{32768}, Wide{131072}}) {
    for (const Wide dim : {512, 768}) {
      char any = 0;
      Contrast task{};
      task.number = Number::bfloat16, task.rows = n, task.dim = dim, task.columns = true;
      task.budget = Wide{1} << 40;
      const Wide value = contrast_workspace(task);
      CHECK(value <= 6 * n * dim + 512 * n);
      task.grad_a = task.grad_b = &any;
      const Wide all = contrast_workspace(task);
      CHECK(all <= 16 * n * dim + 512 * n);
      task.budget = 1;
      CHECK(contrast_workspace(task) < all);
    }
  }

  // Nobody shares a label: loss and gradient 0.
  std::vector<long long> alone;
  for (int i = 0; i < 150; ++i) alone.push_back(i);
  Case lonely{"lonely", 150, 20};
  lonely.classes = 1;
  const Answer nothing =
      run<float>(lonely, false, Rows<float>(x), Rows<float>(y), Rows<float>(Values{}), alone);
  CHECK_EQ(nothing.loss, 0.0);
  CHECK_EQ(largest(nothing.grad_a), 0.0);
  CHECK_EQ(nothing.grad_scale, 0.0);
  return affekt::test::result();
}
