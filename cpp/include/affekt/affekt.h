/* The live engine for C99 and for whatever calls C: affekt/engine.hpp and affekt/model.hpp under the same
 * names.
 *
 *   affekt_engine *engine = NULL;
 *   affekt_estimate estimate = {.size = sizeof estimate};
 *   if (affekt_engine_open("my-model.safetensors", NULL, &engine) != AFFEKT_OK) puts(affekt_last_message());
 *   affekt_engine_push(engine, "audio", samples, n, NULL, NULL);
 *   while (affekt_engine_poll(engine, &estimate) == AFFEKT_OK) use(estimate.time, estimate.values);
 *   affekt_engine_free(engine);
 *
 * Statuses. Every call but the few that give a text returns one; AFFEKT_OK is 0. After any other but
 * AFFEKT_NO_ESTIMATE, affekt_last_message() tells what was expected and what came. No call throws or aborts.
 *
 * Handles. A handle is a number that looks like a pointer, never an address: NULL, the handle of another
 * kind, one that was freed, or any other value gives AFFEKT_INVALID_HANDLE. Free each once, when no call uses
 * it; the texts and tables that a call gave from it end with it. At most 16383 are alive at once.
 *
 * Structs. Each begins with its size, which the caller sets to sizeof of it, so that programs and libraries
 * of different versions understand each other. What a call fills in is filled as far as the size goes; a
 * smaller size than that of the first version is refused, and so are options and profiles larger than the
 * library knows, since they ask for something that it cannot do.
 *
 * Threads. As for affekt::Engine: each input is pushed from one thread at a time, polls come from one, and
 * finish, reset, snapshot and restore while no other call on the engine runs (but for finish of a model with
 * one input, which may come while another thread polls). counters and latency may come from any thread while
 * others push and poll, but not during restore. A call that finds one running that it may not meet
 * does nothing and returns AFFEKT_BUSY. push, poll, finish, reset and counters neither allocate nor lock, but
 * for the place of a thread's message, which the system may allocate with the first call that fails there. */
#ifndef AFFEKT_AFFEKT_H
#define AFFEKT_AFFEKT_H

#include <stddef.h>
#include <stdint.h>

#include "affekt/export.hpp"

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t affekt_status;
#ifdef __cplusplus
enum : affekt_status {
#else
enum {
#endif
  AFFEKT_OK = 0,
  /* Of push, as affekt::Status. */
  AFFEKT_QUEUE_FULL = 1,       /* not everything was taken; poll, then push the rest */
  AFFEKT_UNKNOWN_MODALITY = 2, /* the model has no input of that name */
  AFFEKT_TIME_BACKWARDS = 3,   /* the time is smaller than the previous push's time; nothing was taken */
  AFFEKT_NOT_FINITE = 4,       /* a NaN or infinite sample or time; nothing was taken */
  AFFEKT_OUT_OF_RANGE = 5,     /* a sample beyond +-1e6, where full scale is +-1; nothing was taken */
  AFFEKT_FINISHED = 6,         /* push after finish; nothing was taken */
  AFFEKT_WRONG_TYPE = 7,       /* int16 for an input that is no audio; nothing was taken */
  /* Of poll, and no error. */
  AFFEKT_NO_ESTIMATE = 32, /* none is due yet */
  /* Of any call. */
  AFFEKT_INVALID_HANDLE = 64,   /* no handle of this kind that is alive */
  AFFEKT_INVALID_ARGUMENT = 65, /* an argument is null, out of its range or of a wrong size */
  AFFEKT_MODEL_FILE = 66,       /* the model file cannot be used */
  AFFEKT_BUSY = 67,             /* another call on this engine runs that this one may not meet */
  AFFEKT_OUT_OF_MEMORY = 68,    /* memory, or handles */
  AFFEKT_INTERNAL = 69          /* a fault of the library's own */
};

typedef struct affekt_model affekt_model;       /* an immutable model; engines keep what they need of it */
typedef struct affekt_engine affekt_engine;     /* a live session */
typedef struct affekt_snapshot affekt_snapshot; /* an engine as it was */

/* A sentence for people, about any status. Never NULL. */
AFFEKT_API const char *affekt_message(affekt_status status);
/* What went wrong in this thread's last call that failed; "" before the first. Valid until the next one. */
AFFEKT_API const char *affekt_last_message(void);
/* Version of the library, "major.minor.patch". */
AFFEKT_API const char *affekt_version(void);
/* The kernels' instruction set: "baseline", "avx2" or "avx512"; NULL if AFFEKT_ISA names another. */
AFFEKT_API const char *affekt_isa(void);

/* ---- models ---- */

/* One signal that a model listens to; as affekt::InputSpec. */
typedef struct affekt_input_spec {
  size_t size;
  const char *name; /* the modality's name in push */
  const char *kind; /* "audio"; "signal": any other, at a steady rate; "rows": features, each with its time */
  const char *unit; /* "full scale" for audio: samples in [-1, 1] */
  double rate;      /* Hz; of rows the nominal one */
  size_t channels;  /* values of a sample, side by side; of rows the features */
} affekt_input_spec;

/* One group of values of an estimate; as affekt::OutputSpec. */
typedef struct affekt_output_spec {
  size_t size;
  const char *name;
  const char *kind;          /* "continuous", or "categorical": probabilities that sum to 1 */
  const char *const *labels; /* one per value */
  size_t n_labels;
  size_t offset; /* of the first value among all values of an estimate */
} affekt_output_spec;

/* When estimates come and what they depend on, in seconds and Hz; as affekt::Timing. */
typedef struct affekt_timing {
  size_t size;
  double first_estimate_s; /* signal needed before the first regular estimate */
  double hop_s;            /* signal between estimates */
  double context_s;        /* older signal has no influence */
  double lookahead_s;      /* signal after its own time that an estimate waits for */
  double clock_hz;         /* rate of the clock that several inputs are joined on; 0 without one */
  double silence_s;        /* with a clock: an input without samples for longer is masked */
  double reach_s;          /* with a clock: signal from a sample to the row that shows it, slowest input */
} affekt_timing;

/* Reads and checks a model file. AFFEKT_MODEL_FILE: the message has the path and the reason. */
AFFEKT_API affekt_status affekt_model_load(const char *path, affekt_model **model);
/* The same from memory, which is not needed afterwards. */
AFFEKT_API affekt_status affekt_model_from_bytes(const void *data, size_t size, affekt_model **model);
/* Engines over it live on. NULL is taken, and nothing done. */
AFFEKT_API affekt_status affekt_model_free(affekt_model *model);
/* The card's JSON text as stored. */
AFFEKT_API affekt_status affekt_model_card(const affekt_model *model, const char **card);
/* The file's SHA-256 in lower-case hex, which names this very model. */
AFFEKT_API affekt_status affekt_model_hash(const affekt_model *model, const char **hash);
/* How many inputs there are, and one of them, counted from 0. */
AFFEKT_API affekt_status affekt_model_inputs(const affekt_model *model, size_t *n);
AFFEKT_API affekt_status affekt_model_input(const affekt_model *model, size_t index, affekt_input_spec *spec);
/* How many outputs there are, and one of them. */
AFFEKT_API affekt_status affekt_model_outputs(const affekt_model *model, size_t *n);
AFFEKT_API affekt_status affekt_model_output(const affekt_model *model, size_t index,
                                             affekt_output_spec *spec);
/* The `n` names of an estimate's values: labels of continuous outputs, "p_" + label of categorical ones. */
AFFEKT_API affekt_status affekt_model_columns(const affekt_model *model, const char *const **names,
                                              size_t *n);
AFFEKT_API affekt_status affekt_model_timing(const affekt_model *model, affekt_timing *timing);
/* Bytes that one engine over this model allocates besides its queues. */
AFFEKT_API affekt_status affekt_model_state_bytes(const affekt_model *model, size_t *bytes);

/* ---- engines ---- */

/* As affekt::EngineOptions. */
typedef struct affekt_engine_options {
  size_t size;
  double queue_s;    /* samples that may wait between push and poll, in seconds, (0, 3600]; negative: 10, or
                        for a model with a clock and a finite wait_s, that and 1 s or 2 samples of the slowest
                        input, whichever is longer */
  double reanchor_s; /* disagreement between time stamps and sample count that moves the clock, (0, 1e9] */
  double wait_s;     /* for a model with a clock: how far other inputs may be ahead, in seconds, before an
                        estimate is given without an input that has not come to its time; negative: the silence
                        of the model's clock; infinity: waits until finish */
  double dejitter_s; /* half-life, in seconds of signal, [1, 1e6], of the regression that takes jitter out of
                        the time stamps and follows the drift of an input's clock; negative: none */
  int32_t adapting;  /* whether the model goes on learning how its speaker sounds, if it can; 0 or 1 */
} affekt_engine_options;

/* The defaults: affekt_engine_options options = AFFEKT_ENGINE_OPTIONS; */
#define AFFEKT_ENGINE_OPTIONS \
  { sizeof(affekt_engine_options), -1.0, 0.1, -1.0, -1.0, 1 }

/* As affekt::Estimate. */
typedef struct affekt_estimate {
  size_t size;
  double time;         /* of the last sample that it used, in the pushes' clock, seconds; of its tick, for a
                          model with a clock */
  uint64_t sample;     /* index of that sample, or of the tick, since construction or reset */
  const float *values; /* in the order of the model's columns; valid until the next poll, reset or restore */
  size_t n_values;     /* how many there are */
  const uint8_t *present; /* for a model with a clock, per input whether the estimate rests on it; as long
                             valid as `values`. NULL without a clock */
  size_t n_present;
  double latency;         /* seconds from its time to the newest sample of any input when it was computed */
  float confidence;       /* in [0, 1], where has_confidence is 1; else 0 */
  int32_t has_confidence; /* whether the model's card defines one */
  int32_t valid;          /* 0: there was nothing to judge, or a value is not finite */
} affekt_estimate;

/* Since construction or reset; as affekt::Counters. */
typedef struct affekt_counters {
  size_t size;
  uint64_t taken;      /* samples taken */
  uint64_t refused;    /* samples not taken because the queue was full */
  uint64_t rejected;   /* pushes refused for their content, time or modality */
  uint64_t reanchors;  /* times the clock moved because of a gap or an overlap */
  uint64_t estimates;  /* of one input: those that rest on it */
  uint64_t invalid;    /* estimates that are not valid */
  uint64_t duplicates; /* rows left out because they have the time of the row before */
  uint64_t late;       /* samples that came after the tick of their time */
  uint64_t silences;   /* times that an input fell silent and was masked */
  uint64_t overdue;    /* ticks that were not waited for; of one input: because of it */
  uint64_t dejittered; /* stamps that went into the regression (dejitter_s) */
} affekt_counters;

/* What a node of type `adapt` knows of a speaker; as affekt::Adaptation. */
typedef struct affekt_adaptation {
  size_t size;
  const char *node;       /* its name in the card */
  double count;           /* rows, less what was forgotten; with 0 the others mean nothing */
  const double *mean;     /* `width` values */
  const double *variance; /* `width` values */
  size_t width;
} affekt_adaptation;

/* An engine over a model. `options` NULL: the defaults. */
AFFEKT_API affekt_status affekt_engine_new(const affekt_model *model, const affekt_engine_options *options,
                                           affekt_engine **engine);
/* The same over a model file. */
AFFEKT_API affekt_status affekt_engine_open(const char *path, const affekt_engine_options *options,
                                            affekt_engine **engine);
/* Frees it, when no other call on it runs. NULL is taken, and nothing done. */
AFFEKT_API affekt_status affekt_engine_free(affekt_engine *engine);

/* Queues `n` samples of `modality`, the first of them at `*time` seconds; NULL: where the last push ended, or
 * at 0 s. `taken`, which may be NULL, gets how many fitted. A sample is the input's channels, side by side:
 * `samples` holds n times as many values, of which those that do not fit are not looked at. */
AFFEKT_API affekt_status affekt_engine_push(affekt_engine *engine, const char *modality, const float *samples,
                                            size_t n, const double *time, size_t *taken);
/* The same for 16-bit PCM, taken as x / 32768. */
AFFEKT_API affekt_status affekt_engine_push_int16(affekt_engine *engine, const char *modality,
                                                  const int16_t *samples, size_t n, const double *time,
                                                  size_t *taken);
/* Computes until the next estimate is due (AFFEKT_OK) or the queues are empty (AFFEKT_NO_ESTIMATE). */
AFFEKT_API affekt_status affekt_engine_poll(affekt_engine *engine, affekt_estimate *estimate);
/* No more samples will come; estimates that are owed are then due. */
AFFEKT_API affekt_status affekt_engine_finish(affekt_engine *engine);
/* No more samples of one input will come: estimates do not wait for it any more, and it falls silent as any
 * input does. From the thread that pushes it; others may push and poll meanwhile. */
AFFEKT_API affekt_status affekt_engine_finish_input(affekt_engine *engine, const char *modality);
/* Back to the state after construction; a model that adapts, to what adapt() set last. */
AFFEKT_API affekt_status affekt_engine_reset(affekt_engine *engine);

/* The engine as it is now, a handle of its own; and back to it, in this or another engine over the same
 * model. */
AFFEKT_API affekt_status affekt_engine_snapshot(const affekt_engine *engine, affekt_snapshot **snapshot);
AFFEKT_API affekt_status affekt_engine_restore(affekt_engine *engine, const affekt_snapshot *snapshot);
AFFEKT_API affekt_status affekt_snapshot_free(affekt_snapshot *snapshot);

/* Asks what the nodes that adapt know by now, and how many they are; affekt_engine_adaptation gives one of
 * these. Texts and tables last until the next affekt_engine_adaptations on this engine. These four: from the
 * thread that polls. */
AFFEKT_API affekt_status affekt_engine_adaptations(affekt_engine *engine, size_t *n);
AFFEKT_API affekt_status affekt_engine_adaptation(affekt_engine *engine, size_t index,
                                                  affekt_adaptation *adaptation);
/* Sets it from `n` structs of one size, for now and for every reset to come; nodes that are not named start
 * from their prior. On any other status than AFFEKT_OK nothing changes. */
AFFEKT_API affekt_status affekt_engine_adapt(affekt_engine *engine, const affekt_adaptation *profile,
                                             size_t n);
/* Whether it goes on learning (1) or not (0); what it knows stays in use either way. */
AFFEKT_API affekt_status affekt_engine_set_adapting(affekt_engine *engine, int32_t adapting);

/* Longest time, in seconds of signal, from a sample to the next estimate; computing time comes on top. */
AFFEKT_API affekt_status affekt_engine_latency(const affekt_engine *engine, double *seconds);
/* Of one input, or of all together with `modality` NULL. */
AFFEKT_API affekt_status affekt_engine_counters(const affekt_engine *engine, const char *modality,
                                                affekt_counters *counters);
/* A handle of its own for the model that the engine runs. */
AFFEKT_API affekt_status affekt_engine_model(const affekt_engine *engine, affekt_model **model);

#ifdef __cplusplus
}
#endif

#endif /* AFFEKT_AFFEKT_H */
