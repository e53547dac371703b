#include "graph.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "affekt/error.hpp"
#include "speaker.hpp"

namespace affekt {
namespace {

constexpr std::size_t kMaxNodes = 256, kMaxOutputs = 64, kMaxFrontEnds = 8;
constexpr double kMaxClock = 9e15;  // samples; beyond it a double no longer counts one by one

void check_name(const Fields& at, const std::string& name) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  if (name.empty() || name.size() > 100 || !std::all_of(name.begin(), name.end(), good))
    at.fail("'name' must be 1 to 100 letters, digits, '_' or '-', got " + brief(std::string_view(name)));
}

/// The composition of `outer` over rows that lie like `inner` over samples.
Geometry compose(const Geometry& inner, const Geometry& outer, const Fields& at) {
  const auto affine = [&](std::uint64_t a, std::uint64_t b, std::uint64_t c) {
    if (static_cast<double>(a) + static_cast<double>(b) * static_cast<double>(c) > kMaxClock)
      at.fail("strides and windows multiply to more samples than can be counted");
    return a + b * c;
  };
  return {affine(inner.offset, inner.stride, outer.offset), affine(0, inner.stride, outer.stride),
          affine(inner.span, inner.stride, outer.span - 1)};
}

bool tick_together(const Graph::Vertex& a, const Graph::Vertex& b) {
  return a.domain == b.domain && a.clock.offset == b.clock.offset && a.clock.stride == b.clock.stride;
}

/// Flushes denormals while it lives: they are slow, and a decaying network makes many.
class NoDenormals {
 public:
#if defined(__SSE2__)
  NoDenormals() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  NoDenormals() noexcept {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (std::uint64_t{1} << 24)));
  }
  ~NoDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  std::uint64_t saved_;
#endif
};

}  // namespace

Graph::Graph(const Json& json, const std::vector<TensorView>& tensors) {
  Fields card(json, "card");
  schema_ = card.get("schema").get<int>();  // checked with the container
  card.get("tensors");                      // likewise
  for (const char* key : {"name", "version"}) {
    const std::string text = card.text(key);
    if (text.empty() || text.size() > 200)
      card.fail("'" + std::string(key) + "' must have 1 to 200 characters");
  }
  for (const char* key : {"system", "info"})
    if (card.has(key)) card.object(key);
  TensorTable table(tensors);
  read_inputs(card);
  read_clock(card);
  read_nodes(card, table);
  read_outputs(card);
  read_validity(card);
  read_confidence(card);
  check_use(card);
  table.done();
  check_latency(card);
  card.done();
  plan_memory();
}

const Graph::Vertex* Graph::find(const std::string& name) const noexcept {
  const auto vertex =
      std::find_if(vertices.begin(), vertices.end(), [&](const Vertex& v) { return v.name == name; });
  return vertex == vertices.end() ? nullptr : &*vertex;
}

void Graph::read_inputs(Fields& card) {
  const Json& list = card.array("inputs");
  if (list.empty() || list.size() > kMaxInputs) card.fail("'inputs' must list 1 to 16 signals");
  for (const Json& item : list) {
    Fields fields(item, "input " + std::to_string(inputs.size()));
    InputSpec input;
    input.name = fields.text("name");
    check_name(fields, input.name);
    if (schema_ == 1) {
      input.kind = fields.text("kind", {"audio"});
      input.rate = fields.number("rate", 1, 1e6);
      input.channels = static_cast<int>(fields.integer("channels", 1, 1));
      input.unit = fields.text("unit", {"full scale"});
    } else {
      input.kind = fields.text("kind", {"audio", "signal", "rows"});
      input.rate = fields.number("rate", 0.01, 2e5);
      input.channels =
          static_cast<int>(fields.integer("channels", 1, input.kind == "rows" ? kMaxWidth : 1024));
      input.unit = input.kind == "audio" ? fields.text("unit", {"full scale"}) : fields.text("unit");
      if (input.unit.empty() || input.unit.size() > 100) fields.fail("'unit' must have 1 to 100 characters");
    }
    fields.done();
    for (const InputSpec& other : inputs)
      if (other.name == input.name) fields.fail("the name '" + input.name + "' is taken");
    domains.push_back({input.rate, inputs.size()});
    inputs.push_back(input);
  }
}

void Graph::read_clock(Fields& card) {
  if (schema_ < 2 || !card.has("clock")) return;
  Fields fields(card.object("clock"), "card: clock");
  timing.clock_hz = fields.number("rate", 0.01, 1e4);
  timing.silence_s = fields.number("silence", 1e-3, 3600);
  fields.done();
  for (const InputSpec& input : inputs)
    if (timing.silence_s * input.rate < 2)
      fields.fail("'silence' must be at least 2 samples of every input, " + std::to_string(2 / input.rate) +
                  " s of '" + input.name + "', got " + std::to_string(timing.silence_s));
  clocked = true;
}

void Graph::read_nodes(Fields& card, TensorTable& tensors) {
  const Json& list = card.array("nodes");
  if (list.empty() || list.size() > kMaxNodes) card.fail("'nodes' must list 1 to 256 nodes");
  struct Listed {
    Fields fields;
    std::string name, type;
    std::vector<std::string> from;
    bool placed = false;
  };
  std::vector<Listed> listed;
  std::set<std::string> names;
  for (const InputSpec& input : inputs) names.insert(input.name);
  for (const Json& item : list) {
    Fields fields(item, "node " + std::to_string(listed.size()));
    const std::string name = fields.text("name");
    check_name(fields, name);
    fields = Fields(item, "node '" + name + "'");
    if (!names.insert(name).second) fields.fail("the name is taken by another node or input");
    fields.text("name");
    const std::string type = fields.text("type");
    if (const std::size_t count = fields.array("inputs").size(); count == 0 || count > kMaxInputs)
      fields.fail("'inputs' must name 1 to 16 nodes or inputs, got " + std::to_string(count));
    const std::vector<std::string> from = fields.texts("inputs");
    fields.object("options");
    fields.done();
    listed.push_back({std::move(fields), name, type, from});
  }
  const auto is_front_end = [](const Listed& node) { return node.type == "front_end"; };
  if (std::count_if(listed.begin(), listed.end(), is_front_end) > static_cast<std::ptrdiff_t>(kMaxFrontEnds))
    card.fail("'nodes' must hold at most 8 front ends");
  for (const Listed& node : listed)
    for (const std::string& from : node.from)
      if (!names.contains(from))
        node.fields.fail("its input " + brief(std::string_view(from)) + " does not exist");

  if (clocked) {
    clock_domain = domains.size();
    domains.push_back({timing.clock_hz, kNoSignal});
  }
  const auto placed = [&](const std::string& name) -> std::size_t {  // vertex + 1, or 0
    const Vertex* const vertex = find(name);
    return vertex ? static_cast<std::size_t>(vertex - vertices.data()) + 1 : 0;
  };
  const auto signal_of = [&](const std::string& name) -> std::size_t {
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].name == name) return i;
    return inputs.size();
  };
  // The list may come in any order: place whatever has all its inputs until nothing moves.
  for (bool moved = true; moved && vertices.size() < listed.size();) {
    moved = false;
    for (Listed& entry : listed) {
      if (entry.placed) continue;
      const bool ready = std::all_of(entry.from.begin(), entry.from.end(), [&](const std::string& name) {
        return placed(name) != 0 || signal_of(name) < inputs.size();
      });
      if (!ready) continue;
      Vertex vertex;
      vertex.name = entry.name;
      vertex.type = entry.type;
      NodeSource source{entry.name, entry.type, entry.fields, {}, nullptr, &tensors, 0, false, schema_};
      std::vector<Geometry> clocks;
      std::vector<std::size_t> from_domain;
      for (const std::string& name : entry.from) {
        const std::size_t from = placed(name);
        vertex.from.push_back(from);
        if (from != 0) {
          const Vertex& before = vertices[from - 1];
          source.widths.push_back(before.node->width());
          clocks.push_back(before.clock);
          from_domain.push_back(before.domain);
        } else {
          const std::size_t signal = signal_of(name);
          source.widths.push_back(static_cast<std::size_t>(inputs[signal].channels));
          clocks.push_back({});
          from_domain.push_back(signal);
        }
      }
      const std::size_t first = vertex.from.front();
      const Domain domain = domains[from_domain.front()];
      source.direct = first == 0;
      if (source.direct || vertices[first - 1].sampled) source.signal = &inputs[domain.signal];
      source.rate = domain.rate / static_cast<double>(clocks.front().stride);
      vertex.node = make_node(source);
      Geometry joined = clocks.front();
      for (std::size_t i = 1; i < clocks.size(); ++i) {
        if (from_domain[i] != from_domain[0] || clocks[i].offset != joined.offset ||
            clocks[i].stride != joined.stride)
          entry.fields.fail("its inputs do not tick together");
        joined.span = std::max(joined.span, clocks[i].span);
      }
      vertex.align = entry.type == "align";
      vertex.presence = entry.type == "presence";
      if (vertex.align && !clocked) entry.fields.fail("needs a card with a 'clock'");
      if (vertex.align && domain.signal == kNoSignal) entry.fields.fail("its input is on the clock already");
      if (vertex.presence && (first == 0 || !vertices[first - 1].align))
        entry.fields.fail("its input must be a node of type align");
      vertex.domain = from_domain.front();
      vertex.sampled = source.signal != nullptr &&
                       (entry.type == "resample" || entry.type == "filter" || entry.type == "reference");
      if (vertex.align) {
        vertex.domain = clock_domain;
      } else if (const RateChange change = vertex.node->rate_change(); change.rate > 0) {
        vertex.domain = domains.size();
        domains.push_back({change.rate, domain.signal, change.delay_s, change.context_s});
      } else {
        vertex.clock = compose(joined, vertex.node->geometry(), entry.fields);
      }
      vertex.signal = vertex.align ? domain.signal : domains[vertex.domain].signal;
      vertices.push_back(std::move(vertex));
      entry.placed = moved = true;
    }
  }
  for (const Listed& entry : listed)
    if (!entry.placed) entry.fields.fail("depends on itself through a cycle of nodes");
}

void Graph::read_outputs(Fields& card) {
  const Json& list = card.array("outputs");
  if (list.empty() || list.size() > kMaxOutputs) card.fail("'outputs' must list 1 to 64 outputs");
  std::set<std::string> names, columns_seen;
  const Json& nodes = card.array("nodes");
  const auto is_softmax = [&](const Vertex& vertex) {
    const auto source =
        std::find_if(nodes.begin(), nodes.end(), [&](const Json& n) { return n["name"] == vertex.name; });
    return vertex.type == "activation" && (*source)["options"]["kind"] == "softmax";
  };
  const auto gives_probabilities = [&](const Vertex& vertex) {
    if (vertex.type != "average") return is_softmax(vertex);
    return std::all_of(vertex.from.begin(), vertex.from.end(),
                       [&](std::size_t from) { return from != 0 && is_softmax(vertices[from - 1]); });
  };
  for (const Json& item : list) {
    Fields fields(item, "output " + std::to_string(outputs.size()));
    OutputSpec output;
    output.name = fields.text("name");
    check_name(fields, output.name);
    fields = Fields(item, "output '" + output.name + "'");
    fields.text("name");
    if (!names.insert(output.name).second) fields.fail("the name is taken by another output");
    output.kind = fields.text("kind", {"continuous", "categorical"});
    output.labels = fields.texts("labels");
    const std::string node = fields.text("node");
    const Vertex* const vertex = find(node);
    if (!vertex) fields.fail("its node " + brief(std::string_view(node)) + " does not exist");
    if (output.labels.size() != vertex->node->width())
      fields.fail("has " + std::to_string(output.labels.size()) + " labels, node '" + node + "' gives " +
                  std::to_string(vertex->node->width()) + " values");
    if (output.kind == "categorical") {
      if (!gives_probabilities(*vertex))
        fields.fail("is categorical, so its node must be a softmax activation or an average of such");
    } else if (fields.has("range")) {
      const Json& range = fields.array("range");
      if (range.size() != 2 || !range[0].is_number() || !range[1].is_number() ||
          !(range[0].get<double>() < range[1].get<double>()))
        fields.fail("'range' must be two rising numbers");
    }
    fields.done();
    output.offset = columns.size();
    for (const std::string& label : output.labels) {
      if (label.empty() || label.size() > 100) fields.fail("labels must have 1 to 100 characters");
      columns.push_back(output.kind == "categorical" ? "p_" + label : label);
      if (!columns_seen.insert(columns.back()).second)
        fields.fail("the column " + brief(std::string_view(columns.back())) + " appears twice");
    }
    output_vertex.push_back(static_cast<std::size_t>(vertex - vertices.data()));
    outputs.push_back(output);
  }

  const Vertex& lead = vertices[output_vertex.front()];
  std::uint64_t span = 0;
  for (const std::size_t v : output_vertex) {
    const Vertex& vertex = vertices[v];
    if (!tick_together(vertex, lead))
      card.fail("the outputs do not tick together: nodes '" + lead.name + "' and '" + vertex.name + "'");
    span = std::max(span, vertex.clock.span);
  }
  if (clocked && lead.domain != clock_domain)
    card.fail("the outputs must be on the clock: node '" + lead.name + "' is before any align");
  read_timing(span);
}

void Graph::read_timing(std::uint64_t span) {
  const Vertex& lead = vertices[output_vertex.front()];
  const Domain& domain = domains[lead.domain];
  const auto seconds = [](std::uint64_t rows, const Domain& d) { return static_cast<double>(rows) / d.rate; };
  timing.hop_s = seconds(lead.clock.stride, domain);
  timing.first_estimate_s = seconds(lead.clock.offset + (clocked ? 0 : 1), domain) + domain.delay;
  timing.context_s = seconds(span, domain) + domain.context;
  if (!clocked) return;
  double before = 0;
  for (const Vertex& vertex : vertices) {
    if (!vertex.align) continue;
    const std::size_t from = vertex.from.front();
    // Before the first node: a sample as it comes.
    const Geometry clock = from == 0 ? Geometry{} : vertices[from - 1].clock;
    const Domain& d = domains[from == 0 ? vertex.signal : vertices[from - 1].domain];
    timing.reach_s = std::max(timing.reach_s, seconds(clock.stride, d) + d.delay);
    before = std::max(before, seconds(clock.span + clock.stride, d) + d.context);
  }
  timing.context_s += before + timing.silence_s;
}

void Graph::read_confidence(Fields& card) {
  if (schema_ < 2 || !card.has("confidence")) return;
  Fields fields(card.object("confidence"), "card: confidence");
  const std::string node = fields.text("node");
  fields.done();
  const Vertex* const vertex = find(node);
  if (!vertex) fields.fail("its node " + brief(std::string_view(node)) + " does not exist");
  const Json& nodes = card.array("nodes");
  const auto source =
      std::find_if(nodes.begin(), nodes.end(), [&](const Json& n) { return n["name"] == node; });
  if (vertex->type != "activation" || (*source)["options"]["kind"] != "sigmoid" || vertex->node->width() != 1)
    fields.fail("its node '" + node + "' must be a sigmoid activation of 1 value");
  if (!tick_together(*vertex, vertices[output_vertex.front()]))
    fields.fail("its node '" + node + "' does not tick with the outputs");
  confidence = static_cast<std::size_t>(vertex - vertices.data()) + 1;
}

void Graph::read_validity(Fields& card) {
  if (!card.has("validity")) return;
  Fields fields(card.object("validity"), "card: validity");
  const std::string node = fields.text("node");
  least_validity = fields.number("least", -1e30, 1e30);
  fields.done();
  const Vertex* const vertex = find(node);
  if (!vertex) fields.fail("its node " + brief(std::string_view(node)) + " does not exist");
  if (vertex->node->width() != 1)
    fields.fail("its node '" + node + "' must give 1 value, gives " + std::to_string(vertex->node->width()));
  if (!tick_together(*vertex, vertices[output_vertex.front()]))
    fields.fail("its node '" + node + "' does not tick with the outputs");
  validity = static_cast<std::size_t>(vertex - vertices.data()) + 1;
}

/// Every node must serve an output (or tell its validity or confidence), every input a node.
void Graph::check_use(const Fields& card) const {
  std::vector<bool> used(vertices.size(), false), heard(inputs.size(), false);
  for (const std::size_t v : output_vertex) used[v] = true;
  if (validity != 0) used[validity - 1] = true;
  if (confidence != 0) used[confidence - 1] = true;
  for (std::size_t v = vertices.size(); v-- > 0;) {
    if (!used[v]) card.fail("no output depends on node '" + vertices[v].name + "'");
    for (const std::size_t from : vertices[v].from) {
      if (from != 0) used[from - 1] = true;
      if (from == 0) heard[vertices[v].signal] = true;
    }
  }
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (!heard[i]) card.fail("no node listens to input '" + inputs[i].name + "'");
}

void Graph::check_latency(Fields& card) const {
  if (!card.has("latency")) return;
  Fields fields(card.object("latency"), "card: latency");
  const double tolerance = 1.0 / domains[vertices[output_vertex.front()].domain].rate;
  const auto same = [&](const char* key, double actual) {
    const double declared = fields.number(key, 0, 1e12);
    if (std::abs(declared - actual) > tolerance + 1e-9 * actual)
      fields.fail("'" + std::string(key) + "' says " + std::to_string(declared) + " s, the graph gives " +
                  std::to_string(actual) + " s");
  };
  same("first_estimate_s", timing.first_estimate_s);
  same("hop_s", timing.hop_s);
  same("context_s", timing.context_s);
  same("lookahead_s", timing.lookahead_s);
  fields.done();
}

std::size_t Graph::rows_into(std::size_t v, std::size_t samples, const std::vector<std::size_t>& rows) const {
  return vertices[v].from.front() == 0 ? samples : rows[vertices[v].from.front() - 1];
}

std::size_t Graph::width_into(std::size_t v) const {
  const std::size_t from = vertices[v].from.front();
  return from == 0 ? static_cast<std::size_t>(inputs[vertices[v].signal].channels)
                   : vertices[from - 1].node->width();
}

std::vector<std::size_t> Graph::capacity_for(std::size_t samples, double* bytes) const {
  std::vector<std::size_t> rows;
  double total = 0;
  for (std::size_t v = 0; v < vertices.size(); ++v) {
    const Vertex& vertex = vertices[v];
    const std::size_t in = rows_into(v, samples, rows);
    // One more for what finish may owe.
    rows.push_back((vertex.align ? kTicks : vertex.node->max_rows(in)) + 1);
    total += static_cast<double>(rows.back()) *
             (static_cast<double>(vertex.node->width()) * sizeof(float) + sizeof(std::uint64_t));
    if (bytes) total += static_cast<double>(vertex.node->state_bytes(in));
  }
  total +=
      static_cast<double>(rows[output_vertex.front()]) * static_cast<double>(columns.size()) * sizeof(float);
  if (bytes) *bytes = total;
  return rows;
}

void Graph::plan_memory() {
  // Long blocks share weights between rows; wide graphs get shorter ones so that the buffers stay in the
  // cache.
  constexpr double kBuffers = 16 << 20;
  double least = 0, bytes = 0;
  capacity_for(1, &least);
  block = clocked ? 1024 : 16384;  // with a clock, a block ends at a tick
  capacity_for(block, &bytes);
  while (block > 1 && bytes > least + kBuffers) {
    block /= 2;
    capacity_for(block, &bytes);
  }
  if (bytes > static_cast<double>(kMaxMemory))
    throw ModelFileError("card: a run of this graph would take " + std::to_string(bytes / (1 << 20)) +
                         " MiB, more than the limit of " + std::to_string(kMaxMemory >> 20));
  memory = static_cast<std::size_t>(bytes);
}

GraphRun::GraphRun(const Graph& graph) : graph_(&graph), samples_(graph.inputs.size(), 0) {
  const std::vector<std::size_t> rows = graph.capacity();
  for (std::size_t v = 0; v < graph.vertices.size(); ++v) {
    const Graph::Vertex& vertex = graph.vertices[v];
    Cell cell;
    cell.state = vertex.node->make_state(graph.rows_into(v, graph.block, rows));
    cell.out.assign(rows[v] * vertex.node->width(), 0.0f);
    cell.index.assign(rows[v], 0);
    cell.in.assign(vertex.from.size(), nullptr);
    if (vertex.align) {
      cell.kept.assign(vertex.node->width(), 0.0f);
      cell.there.assign(rows[v], 0.0f);
    }
    cells_.push_back(std::move(cell));
  }
  estimates_.assign(rows[graph.output_vertex.front()] * graph.columns.size(), 0.0f);
  if (graph.clocked) present_.assign(Graph::kTicks * graph.inputs.size(), 0);
}

GraphRun::Cell::Cell(const Cell& other)
    : state(other.state->clone()),
      out(other.out),
      index(other.index),
      rows(other.rows),
      consumed(other.consumed),
      emitted(other.emitted),
      behind(other.behind),
      in(other.in),
      kept(other.kept),
      there(other.there),
      keeps(other.keeps),
      passed(other.passed) {}

void GraphRun::reset() noexcept {
  for (Cell& cell : cells_) {
    cell.state->reset();
    cell.rows = 0;
    cell.consumed = cell.emitted = cell.behind = 0;
    cell.keeps = false;
    cell.passed = 0;
  }
  std::fill(samples_.begin(), samples_.end(), 0);
  ticks_ = 0;
  next_tick_ = first_tick_ = 0;
}

/// Points vertex `v` to the valid rows of its inputs, or to the `n` samples where it listens to the signal;
/// returns how many there are.
std::size_t GraphRun::bring(std::size_t v, const float* samples, std::size_t n) noexcept {
  const Graph::Vertex& vertex = graph_->vertices[v];
  Cell& cell = cells_[v];
  for (std::size_t i = 0; i < vertex.from.size(); ++i) {
    if (vertex.from[i] == 0) {
      cell.in[i] = samples;
    } else {
      const Cell& source = cells_[vertex.from[i] - 1];
      cell.in[i] = vertex.presence ? source.there.data() : source.out.data();
      n = i == 0 ? source.rows : std::min(n, source.rows);  // equal but for what finish owes
    }
  }
  return n;
}

/// Tells what lies behind the rows that vertex `v` made of `n`.
void GraphRun::settle(std::size_t v, std::size_t n, std::uint64_t first_sample) noexcept {
  const Graph::Vertex& vertex = graph_->vertices[v];
  Cell& cell = cells_[v];
  // Of the last input; those of one vertex tick together.
  const std::uint64_t* const index =
      vertex.from.back() == 0 ? nullptr : cells_[vertex.from.back() - 1].index.data();
  for (std::size_t r = 0; r < cell.rows; ++r) {
    const std::uint64_t at = vertex.node->due(cell.emitted + r) - cell.consumed;  // the row of this block
    cell.index[r] = index ? index[at] : first_sample + at;
  }
  cell.emitted += cell.rows;
  cell.consumed += n;
  if (n > 0) cell.behind = index ? index[n - 1] : first_sample + n - 1;
}

void GraphRun::run(std::size_t v, const float* samples, std::size_t n, std::uint64_t first_sample) noexcept {
  const Graph::Vertex& vertex = graph_->vertices[v];
  Cell& cell = cells_[v];
  n = bring(v, samples, n);
  cell.rows = n == 0 ? 0 : vertex.node->process(cell.in.data(), n, cell.out.data(), *cell.state);
  settle(v, n, first_sample);
}

/// run() of vertex `v` in all portions, row by row while there are enough runs that have one.
void GraphRun::run_together(std::size_t v, std::span<Portion> portions, Lanes& lanes) noexcept {
  const Graph& graph = *portions.front().run->graph_;
  const Node& node = *graph.vertices[v].node;
  const std::size_t in = graph.width_into(v), out = node.width();
  for (std::size_t i = 0; i < portions.size(); ++i)
    lanes.rows_[i] = portions[i].run->bring(v, portions[i].samples, portions[i].n);
  std::size_t row = 0;
  for (;; ++row) {
    std::size_t active = 0, longest = 0;
    for (std::size_t i = 0; i < portions.size(); ++i) {
      if (lanes.rows_[i] <= row) continue;
      Cell& cell = portions[i].run->cells_[v];
      lanes.in_[active] = cell.in[0] + row * in;
      lanes.out_[active] = cell.out.data() + row * out;
      lanes.states_[active++] = cell.state.get();
      longest = std::max(longest, lanes.rows_[i] - row);
    }
    if (active < 2 || active < longest) break;  // a block of one run then shares more
    node.step_many(lanes.in_.data(), active, lanes.out_.data(), lanes.states_.data());
  }
  for (std::size_t i = 0; i < portions.size(); ++i) {
    Cell& cell = portions[i].run->cells_[v];
    const std::size_t rows = lanes.rows_[i];
    if (rows > row) {
      const float* const from = cell.in[0] + row * in;
      node.process(&from, rows - row, cell.out.data() + row * out, *cell.state);
    }
    cell.rows = rows;
    portions[i].run->settle(v, rows, portions[i].first);
  }
}

void GraphRun::run_portions(std::span<Portion> portions, Lanes* lanes) noexcept {
  const NoDenormals guard;
  if (portions.empty()) return;
  const Graph& graph = *portions.front().run->graph_;
  for (Portion& p : portions) {
    p.first = p.run->samples_[p.signal];
    p.run->samples_[p.signal] += p.n;
  }
  for (std::size_t v = 0; v < graph.vertices.size(); ++v) {
    const Graph::Vertex& vertex = graph.vertices[v];
    if (vertex.align) {
      for (const Portion& p : portions) p.run->cells_[v].rows = p.run->ticks_;
    } else if (vertex.signal != (graph.clocked ? Graph::kNoSignal : portions.front().signal)) {
      continue;
    } else if (lanes && portions.size() > 1 && vertex.node->steps_many()) {
      run_together(v, portions, *lanes);
    } else {
      for (const Portion& p : portions) p.run->run(v, p.samples, p.n, p.first);
    }
  }
  for (Portion& p : portions) {
    p.run->ticks_ = 0;
    p.estimates = p.run->collect();
  }
}

void GraphRun::run_many(std::span<Portion> portions, Lanes& lanes) noexcept {
  run_portions(portions, &lanes);
}

void GraphRun::Lanes::grow(std::size_t runs) {
  rows_.resize(std::max(rows_.size(), runs));
  in_.resize(std::max(in_.size(), runs));
  out_.resize(std::max(out_.size(), runs));
  states_.resize(std::max(states_.size(), runs));
}

std::size_t GraphRun::collect() noexcept {
  const std::size_t columns = graph_->columns.size();
  std::size_t rows = cells_[graph_->output_vertex.front()].rows;
  for (const std::size_t v : graph_->output_vertex) rows = std::min(rows, cells_[v].rows);  // as above
  if (graph_->validity != 0) rows = std::min(rows, cells_[graph_->validity - 1].rows);
  for (std::size_t o = 0; o < graph_->outputs.size(); ++o) {
    const std::size_t width = graph_->outputs[o].labels.size();
    const float* from = cells_[graph_->output_vertex[o]].out.data();
    float* to = estimates_.data() + graph_->outputs[o].offset;
    for (std::size_t r = 0; r < rows; ++r)
      std::memcpy(to + r * columns, from + r * width, width * sizeof(float));
  }
  return rows;
}

bool GraphRun::valid(std::size_t i) const noexcept {
  if (graph_->clocked) {
    const std::uint8_t* const there = present(i);
    if (std::none_of(there, there + graph_->inputs.size(), [](std::uint8_t p) { return p != 0; }))
      return false;
  }
  if (graph_->validity != 0 && !(cells_[graph_->validity - 1].out[i] >= graph_->least_validity)) return false;
  const float* from = values(i);
  return std::all_of(from, from + graph_->columns.size(), [](float v) { return std::isfinite(v); });
}

void GraphRun::set_adapting(bool adapting) noexcept {
  for (Cell& cell : cells_)
    if (SpeakerState* const speaker = cell.state->speaker()) speaker->adapting = adapting;
}

std::vector<Adaptation> GraphRun::adaptation() const {
  std::vector<Adaptation> known;
  for (std::size_t v = 0; v < cells_.size(); ++v)
    if (const SpeakerState* const speaker = cells_[v].state->speaker())
      known.push_back({graph_->vertices[v].name, speaker->count, speaker->mean, speaker->variance});
  return known;
}

void GraphRun::adapt(std::span<const Adaptation> profile) {
  const auto refuse = [](const Adaptation& entry, const std::string& message) {
    throw InvalidArgument("profile: node " + brief(std::string_view(entry.node)) + ": " + message);
  };
  std::vector<const Adaptation*> of(cells_.size(), nullptr);
  for (const Adaptation& entry : profile) {
    const Graph::Vertex* const vertex = graph_->find(entry.node);
    const std::size_t v = vertex ? static_cast<std::size_t>(vertex - graph_->vertices.data()) : 0;
    if (!vertex || !cells_[v].state->speaker()) refuse(entry, "the model adapts no such node");
    if (of[v]) refuse(entry, "appears twice");
    if (!std::isfinite(entry.count) || entry.count < 0)
      refuse(entry, "count must be a number not below 0, got " + std::to_string(entry.count));
    const auto check = [&](const char* name, const std::vector<double>& values, double low) {
      const std::size_t width = vertex->node->width();
      if (values.size() != width)
        refuse(entry, std::string(name) + " must have " + std::to_string(width) + " values, got " +
                          std::to_string(values.size()));
      for (const double value : values)
        if (!std::isfinite(value) || value < low)
          refuse(entry, std::string(name) + " must be finite numbers" + (low == 0 ? " not below 0" : "") +
                            ", got " + std::to_string(value));
    };
    check("mean", entry.mean, -std::numeric_limits<double>::infinity());
    check("variance", entry.variance, 0);
    of[v] = &entry;
  }
  for (std::size_t v = 0; v < cells_.size(); ++v)
    if (SpeakerState* const speaker = cells_[v].state->speaker())
      speaker->start_from(of[v] ? of[v]->count : 0, of[v] ? of[v]->mean.data() : nullptr,
                          of[v] ? of[v]->variance.data() : nullptr);
}

std::size_t GraphRun::process(std::size_t signal, const float* samples, std::size_t n) noexcept {
  Portion all{this, signal, samples, n};
  run_portions({&all, 1}, nullptr);
  return all.estimates;
}

void GraphRun::feed(std::size_t signal, const float* samples, std::size_t n) noexcept {
  const NoDenormals guard;
  const std::uint64_t first = samples_[signal];
  samples_[signal] += n;
  for (std::size_t v = 0; v < cells_.size(); ++v) {
    if (graph_->vertices[v].signal != signal) continue;
    if (graph_->vertices[v].align) {
      cells_[v].passed = 0;
    } else {
      run(v, samples, n, first);
    }
  }
}

void GraphRun::pass(std::size_t signal, std::uint64_t samples, const float* newest) noexcept {
  for (std::size_t v = 0; v < cells_.size(); ++v) {
    const Graph::Vertex& vertex = graph_->vertices[v];
    if (!vertex.align || vertex.signal != signal) continue;
    Cell& cell = cells_[v];
    const std::size_t width = vertex.node->width();
    const float* row = newest;
    if (vertex.from.front() != 0) {
      const Cell& source = cells_[vertex.from.front() - 1];
      const std::size_t before = cell.passed;
      while (cell.passed < source.rows && source.index[cell.passed] < samples) ++cell.passed;
      if (cell.passed == before) continue;
      row = source.out.data() + (cell.passed - 1) * width;
    }
    std::memcpy(cell.kept.data(), row, width * sizeof(float));
    cell.keeps = true;
  }
}

void GraphRun::lapse(std::size_t signal) noexcept {
  for (std::size_t v = 0; v < cells_.size(); ++v)
    if (graph_->vertices[v].align && graph_->vertices[v].signal == signal) cells_[v].keeps = false;
}

void GraphRun::tick(const bool* alive) noexcept {
  const std::size_t inputs = graph_->inputs.size();
  if (ticks_ == 0) first_tick_ = next_tick_;
  std::uint8_t* const present = present_.data() + ticks_ * inputs;
  for (std::size_t i = 0; i < inputs; ++i) present[i] = alive[i];
  for (std::size_t v = 0; v < cells_.size(); ++v) {
    const Graph::Vertex& vertex = graph_->vertices[v];
    if (!vertex.align) continue;
    Cell& cell = cells_[v];
    const bool there = alive[vertex.signal] && cell.keeps;
    if (!there) present[vertex.signal] = 0;
    const std::size_t width = vertex.node->width();
    float* const row = cell.out.data() + ticks_ * width;
    if (there) {
      std::memcpy(row, cell.kept.data(), width * sizeof(float));
    } else {
      std::fill_n(row, width, 0.0f);
    }
    cell.there[ticks_] = there ? 1.0f : 0.0f;
    cell.index[ticks_] = next_tick_;
  }
  ++ticks_;
  ++next_tick_;
}

std::size_t GraphRun::estimate() noexcept {
  Portion all{this};
  run_portions({&all, 1}, nullptr);
  return all.estimates;
}

std::size_t GraphRun::finish() noexcept {
  const NoDenormals guard;
  for (std::size_t v = 0; v < cells_.size(); ++v) {
    const Graph::Vertex& vertex = graph_->vertices[v];
    Cell& cell = cells_[v];
    run(v, nullptr, 0, samples_[vertex.signal]);
    if (vertex.node->finish(cell.out.data() + cell.rows * vertex.node->width(), *cell.state) > 0)
      cell.index[cell.rows++] = cell.behind;
  }
  return collect();
}

}  // namespace affekt
