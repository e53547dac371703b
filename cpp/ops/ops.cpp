// The schemas of the torch ops, all in one place. Names that begin with an underscore are private; public
// schemas only ever grow. Kernels register themselves from the other files of this folder, autograd and fake
// kernels from Python: the stable ABI has neither.
#include <torch/csrc/stable/library.h>

#include <string>

#include "affekt/error.hpp"

namespace {

// The version of the libaffekt that the ops run on.
std::string version() { return affekt::version(); }

}  // namespace

STABLE_TORCH_LIBRARY(affekt, m) {
  m.def("_version() -> str");
  // signal (..., time), float32 or float64; options as FrontEndOptions::to_json -> (..., frames, features or
  // bins); the last is complex.
  m.def("acoustic(Tensor signal, str options) -> Tensor");
  m.def("spectrogram(Tensor signal, str options) -> Tensor");
  m.def("stft(Tensor signal, str options) -> Tensor");
  // The losses of affekt.losses, where their arguments are explained; learned_temperature, one value, takes
  // the place of temperature. In Python they have gradients once affekt.losses is imported.
  m.def(
      "ccc_loss(Tensor pred, Tensor target, Tensor? mask=None, *, str over=\"time\","
      " str reduction=\"mean\", float eps=1e-8, str bias=\"population\") -> Tensor");
  m.def(
      "info_nce_loss(Tensor anchors, Tensor candidates, Tensor? negatives=None, *, float temperature=0.07,"
      " Tensor? learned_temperature=None, bool symmetric=True, bool positive_in_denominator=True,"
      " str reduction=\"mean\", int budget=268435456) -> Tensor");
  m.def(
      "pairwise_info_nce_loss(Tensor[] embeddings, Tensor? present=None, *, float temperature=0.07,"
      " Tensor? learned_temperature=None, str mode=\"eq1\", str reduction=\"mean\", int budget=268435456)"
      " -> Tensor");
  m.def(
      "nt_xent_loss(Tensor view_1, Tensor view_2, Tensor? negatives=None, *, float temperature=0.1,"
      " Tensor? learned_temperature=None, int budget=268435456) -> Tensor");
  m.def(
      "sup_con_loss(Tensor embeddings, Tensor labels, Tensor? negatives=None, *, float temperature=0.1,"
      " Tensor? learned_temperature=None, int budget=268435456) -> Tensor");
  // A residual block of affekt.nn.TCN: x (batch, time, in) -> (batch, time, out); weights (out, in, taps),
  // that of the residual path (out, in, 1); keys: two of int64, the seed of the draws where dropout > 0.
  m.def(
      "causal_conv_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2,"
      " Tensor? residual=None, Tensor? residual_bias=None, *, int dilation=1, float slope=0.01,"
      " float dropout=0., Tensor? keys=None) -> Tensor");
  // The gradient of the signal; that of a spectrum comes as pairs of real and imaginary part.
  m.def("_acoustic_bwd(Tensor grad, Tensor signal, str options) -> Tensor");
  m.def("_spectrogram_bwd(Tensor grad, Tensor signal, str options) -> Tensor");
  m.def("_stft_bwd(Tensor grad, Tensor signal, str options) -> Tensor");
  // signal (..., time), options as WelchOptions::to_json -> (..., bins).
  m.def("welch(Tensor signal, str options) -> Tensor");
  m.def("_welch_bwd(Tensor grad, Tensor signal, str options) -> Tensor");
  // signal (..., channels, time), options as BandPowerOptions::to_json -> (..., frames, channels, bands) and
  // whether a frame of a channel is valid (..., frames, channels), bool.
  m.def("band_power(Tensor signal, str options) -> (Tensor power, Tensor valid)");
  m.def("_band_power_bwd(Tensor grad, Tensor valid, Tensor signal, str options) -> Tensor");
  // pred, target (batch, time[, dims]), one dtype; mask bool of that shape; reduction 0 mean, 1 sum, 2 none
  // -> the loss, and the columns (n, 7) float64 that the backward op takes.
  m.def(
      "_ccc_fwd(Tensor pred, Tensor target, Tensor? mask, bool pool, int reduction, float eps, bool mixed)"
      " -> (Tensor loss, Tensor columns)");
  // A gradient that is not asked for comes back empty.
  m.def(
      "_ccc_bwd(Tensor grad, Tensor pred, Tensor target, Tensor? mask, Tensor columns, bool pool,"
      " bool for_pred, bool for_target) -> (Tensor grad_pred, Tensor grad_target)");
  // Mean or sum of -log softmax at the positives, as `weight` says, over the rows of a and, with `columns`,
  // those of b. a, b (n, dim); the positive of row i is row (i + shift) mod n of b; `exclude` takes row i of
  // b out of the candidates of row i; negatives (k, dim) are further candidates, constant; scale = 1 /
  // temperature, one value; budget: bytes of scratch memory. Gradients for a unit upstream come along, empty
  // unless asked for; loose allows products to be rounded
  // to tf32 on CUDA, and as the number of threads has it on the CPU.
  m.def(
      "_info_nce(Tensor a, Tensor b, Tensor? negatives, Tensor scale, int shift, bool exclude, bool columns,"
      " float weight, int budget, bool for_a, bool for_b, bool loose)"
      " -> (Tensor loss, Tensor grad_a, Tensor grad_b, Tensor grad_scale)");
  // z (n, dim), labels (n) int64: mean over the rows that share their label with another.
  m.def(
      "_sup_con(Tensor z, Tensor labels, Tensor? negatives, Tensor scale, int budget, bool for_z, bool loose)"
      " -> (Tensor loss, Tensor grad_z, Tensor grad_scale)");
  // A block of the matrix of logits = scale cos(a_i, b_j), a (n, dim), b (m, dim); `exclude` leaves i = j
  // out.
  // -> float64 (n) and, with `columns`, (m): log of the sum of exp(logit) over the block's columns and rows.
  m.def(
      "_log_sums(Tensor a, Tensor b, Tensor scale, bool exclude, bool columns, int budget, bool loose)"
      " -> (Tensor row, Tensor col)");
  // Gradients where that of a logit is exp(logit - row[i]) + exp(logit - col[j]), float64: log-sum-exp over
  // the whole matrix less the logarithm of its weight.
  m.def(
      "_log_sums_bwd(Tensor a, Tensor b, Tensor scale, Tensor row, Tensor? col, bool exclude, int budget,"
      " bool for_a, bool for_b, bool loose) -> (Tensor grad_a, Tensor grad_b, Tensor grad_scale)");
  // x (batch, time, in) through two causal convolutions with weights (out, in, taps) and the residual sum,
  // see tcn_training.hpp; keys: two of int64, where dropout > 0; loose allows products to be rounded to tf32
  // on CUDA -> y, and what the backward op takes.
  m.def(
      "_tcn_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor? residual,"
      " Tensor? residual_bias, Tensor? keys, int dilation, float slope, float dropout, bool loose)"
      " -> (Tensor y, Tensor h1, Tensor h2)");
  m.def(
      "_tcn_block_bwd(Tensor grad, Tensor x, Tensor y, Tensor h1, Tensor h2, Tensor weight1, Tensor weight2,"
      " Tensor? residual, int dilation, float slope, float dropout, bool for_x, bool for_weights,"
      " bool loose)"
      " -> (Tensor grad_x, Tensor grad_weight1, Tensor grad_bias1, Tensor grad_weight2, Tensor grad_bias2,"
      " Tensor grad_residual, Tensor grad_residual_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(affekt, CompositeExplicitAutograd, m) { m.impl("_version", TORCH_BOX(&version)); }
