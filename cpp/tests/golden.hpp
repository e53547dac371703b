// The golden model files of schema 1, the signal they were made for, and the values they must give.
#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace affekt::test {

inline std::string golden_path(const std::string& name) {
  return std::string(AFFEKT_TEST_DATA) + "/golden/" + name;
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The same numbers as Numbers(seed).signal(n) in tests/reference_model.py.
inline std::vector<std::int16_t> golden_signal(std::size_t n, std::uint32_t seed = 7) {
  constexpr int envelope[] = {0, 1, 3, 8, 2, 5};
  std::vector<std::int16_t> samples;
  for (std::size_t i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const int product = (static_cast<int>(seed >> 16) - 32768) * envelope[i / 700 % 6];
    samples.push_back(static_cast<std::int16_t>(product >> 4));  // floor, as Python's // 16
  }
  return samples;
}

inline std::vector<float> as_float(const std::vector<std::int16_t>& pcm) {
  std::vector<float> x;
  for (const std::int16_t s : pcm) x.push_back(static_cast<float>(s) / 32768.0f);
  return x;
}

/// Rows of a CSV of numbers after its header line.
inline std::vector<std::vector<double>> read_table(const std::string& path) {
  std::istringstream lines(read_bytes(path));
  std::string line, cell;
  std::getline(lines, line);
  std::vector<std::vector<double>> table;
  while (std::getline(lines, line)) {
    std::istringstream cells(line);
    table.emplace_back();
    while (std::getline(cells, cell, ',')) table.back().push_back(std::stod(cell));
  }
  return table;
}

}  // namespace affekt::test
