/* The same robot in C: see main.cpp. */
#include <affekt/affekt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_INPUTS 16

struct sensor {
  affekt_input_spec input;
  size_t n, at;   /* samples, and the next to push */
  double *times;  /* seconds */
  float *samples; /* input.channels values each, side by side */
};

static void fail(const char *what, const char *why) {
  fprintf(stderr, "robot: %s: %s\n", what, why);
  exit(1);
}

static void check(affekt_status status, const char *what) {
  if (status != AFFEKT_OK) fail(what, affekt_last_message());
}

static void add(struct sensor *sensor, double time, const float *values) {
  const size_t width = sensor->input.channels;
  if ((sensor->n & (sensor->n - 1)) == 0) { /* room for twice as many */
    const size_t room = sensor->n ? 2 * sensor->n : 1;
    sensor->times = realloc(sensor->times, room * sizeof(double));
    sensor->samples = realloc(sensor->samples, room * width * sizeof(float));
    if (!sensor->times || !sensor->samples) fail(sensor->input.name, "not enough memory");
  }
  sensor->times[sensor->n] = time;
  memcpy(sensor->samples + sensor->n++ * width, values, width * sizeof(float));
}

static unsigned long little_endian(const unsigned char *bytes, int n) {
  unsigned long value = 0;
  while (n-- > 0) value = value << 8 | bytes[n];
  return value;
}

static void read_wav(const char *path, struct sensor *sensor) {
  unsigned char head[16], pcm[2];
  FILE *file = fopen(path, "rb");
  if (!file || fread(head, 1, 12, file) != 12 || memcmp(head, "RIFF", 4)) fail(path, "no WAV file");
  while (fread(head, 1, 8, file) == 8) {
    unsigned long size = little_endian(head + 4, 4), i;
    if (!memcmp(head, "fmt ", 4) && size >= 16) {
      if (fread(head, 1, 16, file) != 16 || little_endian(head, 2) != 1 || little_endian(head + 2, 2) != 1 ||
          little_endian(head + 14, 2) != 16 || (double)little_endian(head + 4, 4) != sensor->input.rate)
        fail(path, "expected 16-bit mono PCM at the model's rate");
      size -= 16;
    } else if (!memcmp(head, "data", 4)) {
      for (i = 0; i + 2 <= size && fread(pcm, 1, 2, file) == 2; i += 2) {
        const long value = (long)little_endian(pcm, 2);
        const float x = (float)(value < 32768 ? value : value - 65536) / 32768.0f;
        add(sensor, (double)sensor->n / sensor->input.rate, &x);
      }
      size -= i;
    }
    fseek(file, (long)(size + size % 2), SEEK_CUR);
  }
  fclose(file);
}

static void read_csv(const char *path, struct sensor *sensor) {
  static char line[65536];
  static float values[1024];
  FILE *file = fopen(path, "r");
  if (!file || !fgets(line, sizeof line, file)) fail(path, "no CSV file");
  if (sensor->input.channels > 1024) fail(path, "more than 1024 columns");
  while (fgets(line, sizeof line, file)) {
    char *end;
    const double time = strtod(line, &end);
    size_t i;
    if (end == line) fail(path, "a row without its time");
    for (i = 0; i < sensor->input.channels; ++i) {
      const char *const cell = end + 1;
      if (*end != ',') fail(path, "too few columns");
      values[i] = strtof(cell, &end);
      if (end == cell) fail(path, "a value that is no number");
    }
    add(sensor, time, values);
  }
  fclose(file);
}

static void print_due(affekt_engine *engine, const char *const *columns, const struct sensor *sensors) {
  affekt_estimate estimate = {.size = sizeof estimate};
  affekt_status status;
  size_t i;
  while ((status = affekt_engine_poll(engine, &estimate)) == AFFEKT_OK) {
    printf("%.3f", estimate.time);
    for (i = 0; i < estimate.n_values; ++i) printf(" %s=%.9g", columns[i], (double)estimate.values[i]);
    if (estimate.has_confidence) printf(" confidence=%.9g", (double)estimate.confidence);
    for (i = 0; i < estimate.n_present; ++i)
      if (estimate.present[i]) printf(" %s", sensors[i].input.name);
    printf(estimate.valid ? "\n" : " (not valid)\n");
  }
  if (status != AFFEKT_NO_ESTIMATE) fail("poll", affekt_last_message());
}

int main(int argc, char **argv) {
  static struct sensor sensors[MOST_INPUTS];
  affekt_model *model = NULL;
  affekt_engine *engine = NULL;
  const char *const *columns = NULL;
  size_t n_inputs = 0, n_columns = 0, i;
  long step;
  int k, given = 0, more = 1;
  if (argc < 3) fail("usage", "robot MODEL NAME=FILE ...");
  check(affekt_model_load(argv[1], &model), argv[1]);
  check(affekt_engine_new(model, NULL, &engine), argv[1]);
  check(affekt_model_columns(model, &columns, &n_columns), argv[1]);
  check(affekt_model_inputs(model, &n_inputs), argv[1]);
  for (i = 0; i < n_inputs; ++i) {
    affekt_input_spec *const input = &sensors[i].input;
    input->size = sizeof *input;
    check(affekt_model_input(model, i, input), argv[1]);
    for (k = 2; k < argc; ++k) {
      const size_t length = strlen(input->name);
      const char *path;
      if (strncmp(argv[k], input->name, length) != 0 || argv[k][length] != '=') continue;
      path = argv[k] + length + 1;
      ++given;
      if (strlen(path) > 4 && strcmp(path + strlen(path) - 4, ".wav") == 0)
        read_wav(path, &sensors[i]);
      else
        read_csv(path, &sensors[i]);
    }
  }
  if (given != argc - 2)
    fail("arguments", "expected NAME=FILE with the names of the model's inputs, each once");
  for (step = 1; more; ++step) { /* here a robot waits for the next 20 ms */
    const double now = 0.02 * (double)step;
    more = 0;
    for (i = 0; i < n_inputs; ++i) {
      struct sensor *const s = &sensors[i];
      const int rows = strcmp(s->input.kind, "rows") == 0; /* each sample with a time of its own */
      while (s->at < s->n && s->times[s->at] <= now) {
        size_t n = 1, taken = 0;
        while (!rows && s->at + n < s->n && s->times[s->at + n] <= now) ++n;
        check(affekt_engine_push(engine, s->input.name, s->samples + s->at * s->input.channels, n,
                                 &s->times[s->at], &taken),
              s->input.name);
        s->at += taken;
      }
      more |= s->at < s->n;
    }
    print_due(engine, columns, sensors);
  }
  check(affekt_engine_finish(engine), "finish");
  print_due(engine, columns, sensors);
  for (i = 0; i < n_inputs; ++i) {
    free(sensors[i].times);
    free(sensors[i].samples);
  }
  check(affekt_engine_free(engine), "engine");
  check(affekt_model_free(model), "model");
  return 0;
}
