/* The C interface, from C99: what it says of a model, estimates of several inputs in any chunks, snapshots,
 * profiles, and every misuse answered by a status and a message. */
#include "affekt/affekt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

#define CHECK(condition)                                                                                  \
  do {                                                                                                    \
    if (!(condition)) {                                                                                   \
      ++failures;                                                                                         \
      fprintf(stderr, "%s:%d: failed: %s (%s)\n", __FILE__, __LINE__, #condition, affekt_last_message()); \
    }                                                                                                     \
  } while (0)

/* The call gives this status, and a message that contains `text`. */
#define CHECK_FAILS(call, status, text)                                                    \
  do {                                                                                     \
    const affekt_status got_ = (call);                                                     \
    if (got_ != (status) || strstr(affekt_last_message(), (text)) == NULL) {               \
      ++failures;                                                                          \
      fprintf(stderr, "%s:%d: %s gave %d, \"%s\"\n", __FILE__, __LINE__, #call, (int)got_, \
              affekt_last_message());                                                      \
    }                                                                                      \
  } while (0)

#define FUSED AFFEKT_TEST_DATA "/golden/schema2_fused.safetensors"
#define SPEAKER AFFEKT_TEST_DATA "/golden/schema1_speaker.safetensors"
#define SECONDS 3

static float *noise(size_t n, uint32_t seed) {
  float *x = malloc(n * sizeof *x);
  size_t i;
  if (!x) abort();
  for (i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
  }
  return x;
}

static affekt_engine *open_engine(const char *path) {
  affekt_engine *engine = NULL;
  CHECK(affekt_engine_open(path, NULL, &engine) == AFFEKT_OK);
  if (!engine) abort();
  return engine;
}

/* What was polled, as bytes that can be compared. */
struct heard {
  unsigned char bytes[65536];
  size_t n;
  int estimates, confident;
};

static void drain(affekt_engine *engine, struct heard *heard) {
  affekt_estimate estimate;
  affekt_status status;
  memset(&estimate, 0, sizeof estimate);
  estimate.size = sizeof estimate;
  while ((status = affekt_engine_poll(engine, &estimate)) == AFFEKT_OK) {
    const size_t values = estimate.n_values * sizeof(float);
    if (heard->n + sizeof(double) + sizeof(float) + values + estimate.n_present > sizeof heard->bytes)
      abort();
    memcpy(heard->bytes + heard->n, &estimate.time, sizeof estimate.time);
    heard->n += sizeof estimate.time;
    memcpy(heard->bytes + heard->n, &estimate.confidence, sizeof estimate.confidence);
    heard->n += sizeof estimate.confidence;
    memcpy(heard->bytes + heard->n, estimate.values, values);
    heard->n += values;
    if (estimate.n_present) memcpy(heard->bytes + heard->n, estimate.present, estimate.n_present);
    heard->n += estimate.n_present;
    ++heard->estimates;
    heard->confident += estimate.has_confidence;
    CHECK(estimate.size == sizeof estimate);
    CHECK(estimate.valid == 0 || estimate.valid == 1);
    CHECK(estimate.latency >= 0);
  }
  CHECK(status == AFFEKT_NO_ESTIMATE);
}

static void what_a_model_says(void) {
  static const char *const names[] = {"audio", "eeg", "face"};
  static const char *const kinds[] = {"audio", "signal", "rows"};
  static const double rates[] = {8000, 128, 25};
  static const size_t channels[] = {1, 4, 6};
  affekt_model *model = NULL, *same = NULL;
  affekt_engine *engine = NULL;
  const char *text = NULL, *hash = NULL;
  const char *const *columns = NULL;
  size_t n = 0, i;
  double seconds = 0;
  affekt_input_spec input = {.size = sizeof input};
  affekt_output_spec output = {.size = sizeof output};
  affekt_timing timing = {.size = sizeof timing};
  CHECK(affekt_model_load(FUSED, &model) == AFFEKT_OK);
  CHECK(affekt_model_inputs(model, &n) == AFFEKT_OK && n == 3);
  for (i = 0; i < n; ++i) {
    CHECK(affekt_model_input(model, i, &input) == AFFEKT_OK);
    CHECK(strcmp(input.name, names[i]) == 0 && strcmp(input.kind, kinds[i]) == 0);
    CHECK(input.rate == rates[i] && input.channels == channels[i]);
    CHECK(strlen(input.unit) > 0);
  }
  CHECK_FAILS(affekt_model_input(model, 3, &input), AFFEKT_INVALID_ARGUMENT,
              "index: there are 3 inputs, got 3");
  CHECK(affekt_model_outputs(model, &n) == AFFEKT_OK && n == 1);
  CHECK(affekt_model_output(model, 0, &output) == AFFEKT_OK);
  CHECK(output.n_labels == 2 && strcmp(output.labels[1], "arousal") == 0 && output.offset == 0);
  CHECK(strcmp(output.kind, "continuous") == 0);
  CHECK_FAILS(affekt_model_output(model, 7, &output), AFFEKT_INVALID_ARGUMENT, "got 7");
  CHECK(affekt_model_columns(model, &columns, &n) == AFFEKT_OK && n == 2);
  CHECK(strcmp(columns[0], "valence") == 0 && strcmp(columns[1], "arousal") == 0);
  CHECK(affekt_model_timing(model, &timing) == AFFEKT_OK && timing.clock_hz == 10 && timing.silence_s == 0.4);
  CHECK(affekt_model_state_bytes(model, &n) == AFFEKT_OK && n > 1000);
  CHECK(affekt_model_card(model, &text) == AFFEKT_OK && text[0] == '{');
  CHECK(affekt_model_hash(model, &hash) == AFFEKT_OK && strlen(hash) == 64);
  /* The engine keeps the model; a handle that it gives is one of its own. */
  CHECK(affekt_engine_new(model, NULL, &engine) == AFFEKT_OK);
  CHECK(affekt_engine_latency(engine, &seconds) == AFFEKT_OK && seconds == timing.hop_s + timing.reach_s);
  CHECK(affekt_engine_model(engine, &same) == AFFEKT_OK && same != model);
  CHECK(affekt_model_free(model) == AFFEKT_OK);
  CHECK(affekt_engine_free(engine) == AFFEKT_OK);
  CHECK(affekt_model_hash(same, &text) == AFFEKT_OK && strlen(text) == 64);
  CHECK(affekt_model_free(same) == AFFEKT_OK);
  CHECK(strlen(affekt_version()) >= 5);
  CHECK(affekt_isa() != NULL && strlen(affekt_isa()) > 3);
}

/* Pushes seconds [from, to) of every input in chunks of `chunk` seconds, polling in between. */
static void play(affekt_engine *engine, float *const x[3], double from, double to, double chunk,
                 struct heard *heard) {
  static const char *const names[] = {"audio", "eeg", "face"};
  static const double rates[] = {8000, 128, 25};
  static const size_t widths[] = {1, 4, 6};
  size_t at[3], i;
  double now;
  for (i = 0; i < 3; ++i) at[i] = (size_t)(from * rates[i]);
  for (now = from; now < to;) {
    now = now + chunk < to ? now + chunk : to;
    for (i = 0; i < 3; ++i) {
      const size_t until = (size_t)(now * rates[i]);
      const double time = (double)at[i] / rates[i];
      size_t taken = 99;
      CHECK(affekt_engine_push(engine, names[i], x[i] + at[i] * widths[i], until - at[i], &time, &taken) ==
            AFFEKT_OK);
      CHECK(taken == until - at[i]);
      at[i] = until;
    }
    drain(engine, heard);
  }
}

static void several_inputs_in_any_chunks(void) {
  static struct heard a, b, c;
  float *x[3];
  affekt_engine *engine = open_engine(FUSED), *other;
  affekt_engine_options options = AFFEKT_ENGINE_OPTIONS;
  affekt_model *model = NULL;
  affekt_snapshot *kept = NULL;
  affekt_counters counters;
  memset(&counters, 0, sizeof counters);
  counters.size = sizeof counters;
  x[0] = noise(8000 * SECONDS, 1);
  x[1] = noise(128 * 4 * SECONDS, 2);
  x[2] = noise(25 * 6 * SECONDS, 3);
  play(engine, x, 0, SECONDS, 0.02, &a);
  CHECK(affekt_engine_finish(engine) == AFFEKT_OK);
  drain(engine, &a);
  CHECK(a.estimates >= 10 * SECONDS - 1 && a.confident == a.estimates);
  CHECK(affekt_engine_counters(engine, NULL, &counters) == AFFEKT_OK);
  CHECK(counters.taken == (8000 + 128 + 25) * SECONDS && counters.estimates == (uint64_t)a.estimates);
  CHECK(counters.late == 0 && counters.rejected == 0);
  CHECK(affekt_engine_counters(engine, "eeg", &counters) == AFFEKT_OK && counters.taken == 128 * SECONDS);
  /* After reset, in other chunks; kept half-way. */
  CHECK(affekt_engine_reset(engine) == AFFEKT_OK);
  play(engine, x, 0, 1, 0.25, &b);
  CHECK(affekt_engine_snapshot(engine, &kept) == AFFEKT_OK);
  c = b;
  play(engine, x, 1, SECONDS, 1.0, &b);
  CHECK(affekt_engine_finish(engine) == AFFEKT_OK);
  drain(engine, &b);
  CHECK(a.n == b.n && memcmp(a.bytes, b.bytes, a.n) == 0);
  /* Taken up from there by another engine over the model, made with a smaller queue: the snapshot's counts.
   */
  options.queue_s = 0.5;
  CHECK(affekt_engine_model(engine, &model) == AFFEKT_OK);
  CHECK(affekt_engine_new(model, &options, &other) == AFFEKT_OK);
  CHECK(affekt_engine_free(engine) == AFFEKT_OK);
  CHECK_FAILS(affekt_engine_push(other, "audio", x[0], 8000, NULL, NULL), AFFEKT_QUEUE_FULL, "queue");
  CHECK(affekt_engine_restore(other, kept) == AFFEKT_OK);
  CHECK(affekt_snapshot_free(kept) == AFFEKT_OK);
  play(other, x, 1, SECONDS, 1.0, &c);
  CHECK(affekt_engine_finish(other) == AFFEKT_OK);
  drain(other, &c);
  CHECK(a.n == c.n && memcmp(a.bytes, c.bytes, a.n) == 0);
  CHECK(affekt_engine_free(other) == AFFEKT_OK && affekt_model_free(model) == AFFEKT_OK);
  free(x[0]);
  free(x[1]);
  free(x[2]);
}

/* One input ends: the others need not wait for it, and with all of them ended what is owed comes. */
static void one_input_ends(void) {
  affekt_engine *engine = NULL;
  affekt_engine_options options = AFFEKT_ENGINE_OPTIONS;
  static struct heard heard;
  const double zero = 0;
  float *x = noise(8000 * 2, 7);
  options.wait_s = INFINITY;
  options.queue_s = 10;
  CHECK(affekt_engine_open(FUSED, &options, &engine) == AFFEKT_OK);
  CHECK(affekt_engine_push(engine, "face", x, 50, &zero, NULL) == AFFEKT_OK);
  CHECK(affekt_engine_push(engine, "eeg", x, 16, &zero, NULL) == AFFEKT_OK);
  drain(engine, &heard);
  CHECK(heard.estimates == 0); /* no sound yet */
  CHECK(affekt_engine_finish_input(engine, "audio") == AFFEKT_OK);
  CHECK_FAILS(affekt_engine_push(engine, "audio", x, 1, &zero, NULL), AFFEKT_FINISHED, "finish");
  drain(engine, &heard);
  CHECK(heard.estimates >= 1 && heard.estimates <= 3); /* as far as the EEG goes, 0.125 s */
  CHECK(affekt_engine_finish_input(engine, "eeg") == AFFEKT_OK);
  CHECK(affekt_engine_finish_input(engine, "eeg") == AFFEKT_OK); /* again: nothing more */
  drain(engine, &heard);
  CHECK(heard.estimates >= 18);
  CHECK_FAILS(affekt_engine_finish_input(engine, "video"), AFFEKT_UNKNOWN_MODALITY, "video");
  CHECK_FAILS(affekt_engine_finish_input(engine, NULL), AFFEKT_INVALID_ARGUMENT, "modality");
  CHECK(affekt_engine_free(engine) == AFFEKT_OK);
  free(x);
}

static void what_is_learnt(void) {
  affekt_engine *engine = open_engine(SPEAKER), *other = open_engine(SPEAKER);
  float *x = noise(16000, 4);
  static struct heard heard;
  affekt_adaptation node = {.size = sizeof node}, again = {.size = sizeof again}, wrong;
  size_t n = 0;
  CHECK(affekt_engine_push(engine, "audio", x, 16000, NULL, NULL) == AFFEKT_OK);
  drain(engine, &heard);
  CHECK_FAILS(affekt_engine_adaptation(engine, 0, &node), AFFEKT_INVALID_ARGUMENT, "there are 0");
  CHECK(affekt_engine_adaptations(engine, &n) == AFFEKT_OK && n >= 1);
  CHECK(affekt_engine_adaptation(engine, 0, &node) == AFFEKT_OK);
  CHECK(node.count > 0 && node.width > 0 && strlen(node.node) > 0);
  CHECK(affekt_engine_adapt(other, &node, 1) == AFFEKT_OK);
  CHECK(affekt_engine_adaptations(other, &n) == AFFEKT_OK);
  CHECK(affekt_engine_adaptation(other, 0, &again) == AFFEKT_OK);
  CHECK(again.count == node.count && again.width == node.width);
  CHECK(memcmp(again.mean, node.mean, node.width * sizeof(double)) == 0);
  wrong = node;
  wrong.count = NAN;
  CHECK_FAILS(affekt_engine_adapt(other, &wrong, 1), AFFEKT_INVALID_ARGUMENT, "count");
  wrong = node;
  wrong.node = "nobody";
  CHECK_FAILS(affekt_engine_adapt(other, &wrong, 1), AFFEKT_INVALID_ARGUMENT, "nobody");
  wrong.node = NULL;
  CHECK_FAILS(affekt_engine_adapt(other, &wrong, 1), AFFEKT_INVALID_ARGUMENT, "node");
  wrong = node;
  wrong.width = (size_t)-1;
  CHECK_FAILS(affekt_engine_adapt(other, &wrong, 1), AFFEKT_INVALID_ARGUMENT, "width");
  wrong = node;
  wrong.mean = NULL;
  CHECK_FAILS(affekt_engine_adapt(other, &wrong, 1), AFFEKT_INVALID_ARGUMENT, "mean");
  wrong = node;
  wrong.size = 3;
  CHECK_FAILS(affekt_engine_adapt(other, &wrong, 1), AFFEKT_INVALID_ARGUMENT, "sizeof");
  CHECK_FAILS(affekt_engine_adapt(other, NULL, 1), AFFEKT_INVALID_ARGUMENT, "profile");
  CHECK_FAILS(affekt_engine_adapt(other, &node, 1000), AFFEKT_INVALID_ARGUMENT, "256");
  CHECK_FAILS(affekt_engine_set_adapting(other, 2), AFFEKT_INVALID_ARGUMENT, "adapting");
  CHECK(affekt_engine_set_adapting(other, 0) == AFFEKT_OK);
  CHECK(affekt_engine_free(engine) == AFFEKT_OK && affekt_engine_free(other) == AFFEKT_OK);
  free(x);
}

static void misuse_of_pushes(void) {
  affekt_engine *engine = open_engine(FUSED);
  affekt_estimate estimate;
  const int16_t pcm[2] = {1, 2};
  float *x = noise(1000, 5), bad[2] = {0, 0};
  static float minute[60 * 8000];
  static struct heard heard;
  const double one = 1.0, less = 0.5, nan_time = NAN;
  size_t taken = 99;
  affekt_counters counters = {.size = sizeof counters};
  CHECK(affekt_engine_push(engine, "audio", x, 1000, &one, &taken) == AFFEKT_OK && taken == 1000);
  CHECK_FAILS(affekt_engine_push(engine, "video", x, 1, &one, &taken), AFFEKT_UNKNOWN_MODALITY, "video");
  CHECK(taken == 0);
  CHECK_FAILS(affekt_engine_push(engine, "", x, 1, &one, NULL), AFFEKT_UNKNOWN_MODALITY, "no input");
  CHECK_FAILS(affekt_engine_push(engine, NULL, x, 1, &one, NULL), AFFEKT_INVALID_ARGUMENT, "modality");
  CHECK_FAILS(affekt_engine_push(engine, "audio", NULL, 3, &one, NULL), AFFEKT_INVALID_ARGUMENT, "samples");
  CHECK(affekt_engine_push(engine, "audio", NULL, 0, NULL, NULL) == AFFEKT_OK);
  CHECK_FAILS(affekt_engine_push(engine, "audio", x, 1, &less, NULL), AFFEKT_TIME_BACKWARDS, "smaller");
  CHECK_FAILS(affekt_engine_push(engine, "audio", x, 1, &nan_time, NULL), AFFEKT_NOT_FINITE, "NaN");
  bad[1] = INFINITY;
  CHECK_FAILS(affekt_engine_push(engine, "audio", bad, 2, NULL, NULL), AFFEKT_NOT_FINITE, "infinite");
  bad[1] = 2e6f;
  CHECK_FAILS(affekt_engine_push(engine, "audio", bad, 2, NULL, NULL), AFFEKT_OUT_OF_RANGE, "1e6");
  /* A row that was there already goes in with the others or not at all. */
  CHECK(affekt_engine_push(engine, "face", x, 1, &one, NULL) == AFFEKT_OK);
  x[7] = NAN;
  CHECK_FAILS(affekt_engine_push(engine, "face", x, 2, &one, &taken), AFFEKT_NOT_FINITE, "NaN");
  CHECK(affekt_engine_counters(engine, "face", &counters) == AFFEKT_OK);
  CHECK(taken == 0 && counters.duplicates == 0 && counters.taken == 1 && counters.rejected == 1);
  x[7] = 0;
  CHECK(affekt_engine_push(engine, "face", x, 2, &one, &taken) == AFFEKT_OK && taken == 2);
  CHECK(affekt_engine_counters(engine, "face", &counters) == AFFEKT_OK);
  CHECK(counters.duplicates == 1 && counters.taken == 2);
  CHECK_FAILS(affekt_engine_push_int16(engine, "face", pcm, 1, NULL, NULL), AFFEKT_WRONG_TYPE, "int16");
  CHECK(affekt_engine_push_int16(engine, "audio", pcm, 2, NULL, &taken) == AFFEKT_OK && taken == 2);
  CHECK_FAILS(affekt_engine_push(engine, "audio", minute, 60 * 8000, NULL, &taken), AFFEKT_QUEUE_FULL,
              "queue");
  CHECK(taken == 11200 - 1002); /* the silence of the clock and a second */
  CHECK_FAILS(affekt_engine_poll(engine, NULL), AFFEKT_INVALID_ARGUMENT, "estimate");
  estimate.size = sizeof estimate - 1;
  CHECK_FAILS(affekt_engine_poll(engine, &estimate), AFFEKT_INVALID_ARGUMENT, "size");
  estimate.size = (size_t)-1;
  CHECK_FAILS(affekt_engine_poll(engine, &estimate), AFFEKT_INVALID_ARGUMENT, "size");
  CHECK(affekt_engine_finish(engine) == AFFEKT_OK);
  CHECK_FAILS(affekt_engine_push(engine, "audio", x, 1, NULL, NULL), AFFEKT_FINISHED, "finish");
  drain(engine, &heard);
  CHECK(heard.estimates == 14); /* none was lost by the polls that failed */
  CHECK(affekt_engine_free(engine) == AFFEKT_OK);
  free(x);
}

static void misuse_of_options_and_files(void) {
  affekt_engine_options options = AFFEKT_ENGINE_OPTIONS;
  affekt_engine *engine = (affekt_engine *)(uintptr_t)77;
  affekt_model *model = NULL;
  CHECK_FAILS(affekt_engine_open("nowhere.safetensors", NULL, &engine), AFFEKT_MODEL_FILE, "nowhere");
  CHECK(engine == NULL);
  CHECK_FAILS(affekt_engine_open(NULL, NULL, &engine), AFFEKT_INVALID_ARGUMENT, "path");
  CHECK_FAILS(affekt_engine_open(FUSED, NULL, NULL), AFFEKT_INVALID_ARGUMENT, "engine");
  CHECK_FAILS(affekt_model_load(FUSED, NULL), AFFEKT_INVALID_ARGUMENT, "model");
  CHECK_FAILS(affekt_model_load(NULL, &model), AFFEKT_INVALID_ARGUMENT, "path");
  CHECK_FAILS(affekt_model_from_bytes("abc", 3, &model), AFFEKT_MODEL_FILE, "");
  CHECK_FAILS(affekt_model_from_bytes(NULL, 3, &model), AFFEKT_INVALID_ARGUMENT, "data");
  CHECK(model == NULL);
  options.queue_s = 0;
  CHECK_FAILS(affekt_engine_open(FUSED, &options, &engine), AFFEKT_INVALID_ARGUMENT, "queue_s");
  options.queue_s = 1;
  options.reanchor_s = NAN;
  CHECK_FAILS(affekt_engine_open(FUSED, &options, &engine), AFFEKT_INVALID_ARGUMENT, "reanchor_s");
  options.reanchor_s = 1;
  options.wait_s = NAN;
  CHECK_FAILS(affekt_engine_open(FUSED, &options, &engine), AFFEKT_INVALID_ARGUMENT, "wait_s");
  options.wait_s = 0.1;
  options.dejitter_s = 0.5;
  CHECK_FAILS(affekt_engine_open(FUSED, &options, &engine), AFFEKT_INVALID_ARGUMENT, "dejitter_s");
  options.dejitter_s = 90;
  options.adapting = 5;
  CHECK_FAILS(affekt_engine_open(FUSED, &options, &engine), AFFEKT_INVALID_ARGUMENT, "adapting");
  options.adapting = 1;
  options.size = sizeof options + 8; /* of a newer header */
  CHECK_FAILS(affekt_engine_open(FUSED, &options, &engine), AFFEKT_INVALID_ARGUMENT, "sizeof");
  options.size = 0;
  CHECK_FAILS(affekt_engine_open(FUSED, &options, &engine), AFFEKT_INVALID_ARGUMENT, "AFFEKT_ENGINE_OPTIONS");
}

static void structs_of_other_versions(void) {
  affekt_engine *engine = open_engine(FUSED);
  struct {
    affekt_counters counters;
    uint64_t newer[2];
  } large;
  memset(&large, 0x55, sizeof large);
  large.counters.size = sizeof large;
  CHECK(affekt_engine_counters(engine, NULL, &large.counters) == AFFEKT_OK);
  CHECK(large.counters.size == sizeof large && large.counters.overdue == 0);
  CHECK(large.newer[0] == 0 && large.newer[1] == 0);
  large.counters.size = sizeof large.counters - 1;
  CHECK_FAILS(affekt_engine_counters(engine, NULL, &large.counters), AFFEKT_INVALID_ARGUMENT, "counters");
  CHECK_FAILS(affekt_engine_counters(engine, "tail", &large.counters), AFFEKT_UNKNOWN_MODALITY, "tail");
  CHECK(affekt_engine_free(engine) == AFFEKT_OK);
}

/* Every call that takes an engine, on something that is none. */
static void no_engine(affekt_engine *engine) {
  affekt_estimate estimate;
  affekt_counters counters;
  affekt_adaptation adaptation;
  affekt_snapshot *snapshot = NULL;
  affekt_model *model = NULL;
  const float x = 0;
  const int16_t pcm = 0;
  size_t n = 0;
  double seconds = 0;
  estimate.size = sizeof estimate;
  counters.size = sizeof counters;
  adaptation.size = sizeof adaptation;
  CHECK_FAILS(affekt_engine_push(engine, "audio", &x, 1, NULL, NULL), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_push_int16(engine, "audio", &pcm, 1, NULL, NULL), AFFEKT_INVALID_HANDLE,
              "engine");
  CHECK_FAILS(affekt_engine_poll(engine, &estimate), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_finish(engine), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_finish_input(engine, "audio"), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_reset(engine), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_snapshot(engine, &snapshot), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_restore(engine, snapshot), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_adaptations(engine, &n), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_adaptation(engine, 0, &adaptation), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_adapt(engine, NULL, 0), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_set_adapting(engine, 1), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_latency(engine, &seconds), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_counters(engine, NULL, &counters), AFFEKT_INVALID_HANDLE, "engine");
  CHECK_FAILS(affekt_engine_model(engine, &model), AFFEKT_INVALID_HANDLE, "engine");
}

static void misuse_of_handles(void) {
  affekt_engine *engine = open_engine(FUSED), *speaker = open_engine(SPEAKER);
  affekt_model *model = NULL;
  affekt_snapshot *snapshot = NULL;
  affekt_timing timing = {.size = sizeof timing};
  static affekt_model *many[20000];
  const char *text = NULL;
  size_t n = 0, i;
  CHECK(affekt_engine_model(engine, &model) == AFFEKT_OK);
  CHECK(affekt_engine_snapshot(engine, &snapshot) == AFFEKT_OK);
  no_engine(NULL);
  no_engine((affekt_engine *)model);
  no_engine((affekt_engine *)snapshot);
  no_engine((affekt_engine *)&timing);
  no_engine((affekt_engine *)(uintptr_t)-1);
  CHECK_FAILS(affekt_model_hash((affekt_model *)engine, &text), AFFEKT_INVALID_HANDLE, "model");
  CHECK_FAILS(affekt_model_timing(NULL, &timing), AFFEKT_INVALID_HANDLE, "NULL");
  CHECK_FAILS(affekt_model_hash(model, NULL), AFFEKT_INVALID_ARGUMENT, "hash");
  CHECK_FAILS(affekt_engine_restore(engine, (affekt_snapshot *)model), AFFEKT_INVALID_HANDLE, "snapshot");
  CHECK_FAILS(affekt_engine_restore(engine, NULL), AFFEKT_INVALID_HANDLE, "NULL");
  CHECK_FAILS(affekt_engine_restore(speaker, snapshot), AFFEKT_INVALID_ARGUMENT, "this model");
  CHECK_FAILS(affekt_engine_snapshot(engine, NULL), AFFEKT_INVALID_ARGUMENT, "snapshot");
  CHECK_FAILS(affekt_engine_new((affekt_model *)engine, NULL, &speaker), AFFEKT_INVALID_HANDLE, "model");
  CHECK_FAILS(affekt_model_free((affekt_model *)engine), AFFEKT_INVALID_HANDLE, "model");
  CHECK(affekt_engine_free(engine) == AFFEKT_OK);
  no_engine(engine);
  CHECK_FAILS(affekt_engine_free(engine), AFFEKT_INVALID_HANDLE, "alive");
  CHECK(affekt_snapshot_free(snapshot) == AFFEKT_OK);
  CHECK_FAILS(affekt_snapshot_free(snapshot), AFFEKT_INVALID_HANDLE, "snapshot");
  /* As many as there can be; a handle that was freed does not come to life again with its place. */
  for (n = 0; n < 20000 && affekt_engine_model(speaker, &many[n]) == AFFEKT_OK; ++n) {
    if (n < 4) no_engine(engine);
  }
  CHECK(n == 16383 - 2);
  CHECK_FAILS(affekt_engine_snapshot(speaker, &snapshot), AFFEKT_OUT_OF_MEMORY, "handles");
  for (i = 0; i < n; ++i) CHECK(affekt_model_free(many[i]) == AFFEKT_OK);
  CHECK(affekt_engine_snapshot(speaker, &snapshot) == AFFEKT_OK);
  CHECK(affekt_snapshot_free(snapshot) == AFFEKT_OK);
  CHECK(affekt_engine_free(speaker) == AFFEKT_OK && affekt_model_free(model) == AFFEKT_OK);
  CHECK(affekt_engine_free(NULL) == AFFEKT_OK && affekt_model_free(NULL) == AFFEKT_OK &&
        affekt_snapshot_free(NULL) == AFFEKT_OK);
}

static void every_status_has_a_sentence(void) {
  affekt_status status;
  for (status = -1; status < 128; ++status) {
    const int known = (status >= 0 && status <= AFFEKT_WRONG_TYPE) || status == AFFEKT_NO_ESTIMATE ||
                      (status >= AFFEKT_INVALID_HANDLE && status <= AFFEKT_INTERNAL);
    CHECK((strcmp(affekt_message(status), "unknown status") != 0) == known);
  }
}

int main(void) {
  CHECK(strcmp(affekt_last_message(), "") == 0);
  what_a_model_says();
  several_inputs_in_any_chunks();
  one_input_ends();
  what_is_learnt();
  misuse_of_pushes();
  misuse_of_options_and_files();
  structs_of_other_versions();
  misuse_of_handles();
  every_status_has_a_sentence();
  if (failures) fprintf(stderr, "%d check(s) failed\n", failures);
  return failures != 0;
}
