// Factories of the node types that live in files of their own; nodes.cpp lists them.
#pragma once

#include <memory>

#include "node.hpp"

namespace affekt {

// signal_nodes.cpp: those that take samples
std::unique_ptr<Node> make_resample(NodeSource& source);
std::unique_ptr<Node> make_filter(NodeSource& source);
std::unique_ptr<Node> make_reference(NodeSource& source);
std::unique_ptr<Node> make_band_power(NodeSource& source);

// fusion_nodes.cpp: those that bring inputs together, and what is left of an estimate's way after that
std::unique_ptr<Node> make_align(NodeSource& source);
std::unique_ptr<Node> make_presence(NodeSource& source);
std::unique_ptr<Node> make_gate(NodeSource& source);
std::unique_ptr<Node> make_concat(NodeSource& source);
std::unique_ptr<Node> make_co_attention(NodeSource& source);
std::unique_ptr<Node> make_smooth(NodeSource& source);

}  // namespace affekt
