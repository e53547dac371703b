// A robot that listens, looks and reads EEG: every 20 ms it pushes what its sensors brought and prints the
// estimates that are due. The sensors are files here: NAME=FILE for each input of the model, a 16-bit mono
// WAV or a CSV with a header line and rows of `seconds,value,value,...`.
//
//   robot MODEL audio=voice.wav eeg=eeg.csv face=face.csv
#include <affekt/engine.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Sensor {
  std::string name;
  bool rows = false;   // each sample with a time of its own
  bool given = false;  // on the command line
  std::size_t width = 1, at = 0;
  std::vector<double> times;   // seconds
  std::vector<float> samples;  // `width` values each, side by side
};

std::uint32_t little_endian(const std::string& bytes, std::size_t at, int n) {
  std::uint32_t value = 0;
  while (n-- > 0) value = value << 8 | static_cast<unsigned char>(bytes.at(at + static_cast<std::size_t>(n)));
  return value;
}

void read_wav(const std::string& path, double rate, Sensor& sensor) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (bytes.compare(0, 4, "RIFF") != 0) throw std::runtime_error(path + ": no WAV file");
  for (std::size_t at = 12; at + 8 <= bytes.size();) {
    const std::size_t size = little_endian(bytes, at + 4, 4);
    if (bytes.compare(at, 4, "fmt ") == 0) {
      // PCM, one channel, 16 bits. An engine takes samples at the model's rate; resample before if need be.
      if (little_endian(bytes, at + 8, 2) != 1 || little_endian(bytes, at + 10, 2) != 1 ||
          little_endian(bytes, at + 22, 2) != 16 || little_endian(bytes, at + 12, 4) != rate)
        throw std::runtime_error(path + ": expected 16-bit mono PCM at " + std::to_string(rate) + " Hz");
    } else if (bytes.compare(at, 4, "data") == 0) {
      for (std::size_t i = 0; i + 2 <= size && at + 8 + i + 2 <= bytes.size(); i += 2) {
        const auto pcm = static_cast<std::int16_t>(little_endian(bytes, at + 8 + i, 2));
        sensor.times.push_back(static_cast<double>(sensor.times.size()) / rate);
        sensor.samples.push_back(static_cast<float>(pcm) / 32768.0f);
      }
    }
    at += 8 + size + size % 2;
  }
}

void read_csv(const std::string& path, Sensor& sensor) {
  std::ifstream file(path);
  std::string line, cell;
  if (!std::getline(file, line)) throw std::runtime_error(path + ": no CSV file");
  while (std::getline(file, line)) {
    std::istringstream cells(line);
    for (std::size_t i = 0; i <= sensor.width; ++i) {
      if (!std::getline(cells, cell, ','))
        throw std::runtime_error(path + ": expected " + std::to_string(1 + sensor.width) +
                                 " columns: " + line);
      if (i == 0) sensor.times.push_back(std::stod(cell));
      if (i > 0) sensor.samples.push_back(std::stof(cell));
    }
  }
}

Sensor open_sensor(const affekt::InputSpec& input, int argc, char** argv) {
  Sensor sensor;
  sensor.name = input.name;
  sensor.rows = input.kind == "rows";
  sensor.width = static_cast<std::size_t>(input.channels);
  for (int i = 2; i < argc; ++i) {
    const std::string argument = argv[i], path = argument.substr(argument.find('=') + 1);
    if (argument != input.name + "=" + path) continue;
    sensor.given = true;
    if (path.size() > 4 && path.substr(path.size() - 4) == ".wav")
      read_wav(path, input.rate, sensor);
    else
      read_csv(path, sensor);
  }
  return sensor;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: robot MODEL NAME=FILE ...");
  affekt::Engine engine(argv[1]);  // throws affekt::Error; after this nothing throws or allocates
  std::vector<Sensor> sensors;
  for (const affekt::InputSpec& input : engine.model().inputs())
    sensors.push_back(open_sensor(input, argc, argv));
  const auto given = std::count_if(sensors.begin(), sensors.end(), [](const Sensor& s) { return s.given; });
  if (given != argc - 2) {
    std::string names;
    for (const Sensor& s : sensors) names += " " + s.name + "=FILE";
    throw std::runtime_error("expected each input once at most, of" + names);
  }

  affekt::Estimate estimate;
  const auto print = [&] {
    std::printf("%.3f", estimate.time);
    for (std::size_t i = 0; i < estimate.values.size(); ++i)
      std::printf(" %s=%.9g", engine.model().columns()[i].c_str(), estimate.values[i]);
    if (estimate.confidence) std::printf(" confidence=%.9g", *estimate.confidence);
    for (std::size_t i = 0; i < estimate.present.size(); ++i)
      if (estimate.present[i]) std::printf(" %s", sensors[i].name.c_str());
    std::printf(estimate.valid ? "\n" : " (not valid)\n");
  };

  bool more = true;
  for (long step = 1; more; ++step) {  // here a robot waits for the next 20 ms
    const double now = 0.02 * static_cast<double>(step);
    more = false;
    for (Sensor& sensor : sensors) {
      while (sensor.at < sensor.times.size() && sensor.times[sensor.at] <= now) {
        std::size_t n = 1, taken = 0;
        while (!sensor.rows && sensor.at + n < sensor.times.size() && sensor.times[sensor.at + n] <= now) ++n;
        const affekt::Status status = engine.push(sensor.name, &sensor.samples[sensor.at * sensor.width], n,
                                                  sensor.times[sensor.at], &taken);
        if (status != affekt::Status::ok)
          throw std::runtime_error(sensor.name + ": " + affekt::message(status));
        sensor.at += taken;
      }
      more |= sensor.at < sensor.times.size();
    }
    while (engine.poll(estimate)) print();
  }
  engine.finish();
  while (engine.poll(estimate)) print();
} catch (const std::exception& error) {
  std::fprintf(stderr, "robot: %s\n", error.what());
  return 1;
}
