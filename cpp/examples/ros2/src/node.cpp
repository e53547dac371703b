// A lifecycle node around an engine: sound and rows of action units in, hri_msgs/msg/Expression and
// diagnostics out. All decisions are in mapping.hpp. Never built here: see README.md.
#include <affekt/engine.hpp>
#include <audio_common_msgs/msg/audio_data_stamped.hpp>
#include <chrono>
#include <cstring>
#include <diagnostic_msgs/msg/diagnostic_array.hpp>
#include <hri_msgs/msg/expression.hpp>
#include <hri_msgs/msg/facial_action_units.hpp>
#include <memory>
#include <rclcpp/rclcpp.hpp>
#include <rclcpp_lifecycle/lifecycle_node.hpp>
#include <string>
#include <vector>

#include "mapping.hpp"

namespace affekt_ros {

using CallbackReturn = rclcpp_lifecycle::node_interfaces::LifecycleNodeInterface::CallbackReturn;
using audio_common_msgs::msg::AudioDataStamped;
using hri_msgs::msg::FacialActionUnits;

// All callbacks are in the node's one group, which runs them one after another, as an engine asks.
class Node : public rclcpp_lifecycle::LifecycleNode {
 public:
  Node() : LifecycleNode("affekt") {
    declare_parameter("model", std::string());
    for (const Parameter& p : parameters()) {
      rcl_interfaces::msg::ParameterDescriptor descriptor;
      descriptor.description = p.description;
      descriptor.read_only = false;
      rcl_interfaces::msg::FloatingPointRange range;
      range.from_value = p.low;
      range.to_value = p.high;
      descriptor.floating_point_range = {range};
      declare_parameter(p.name, p.value, descriptor);
    }
  }

  CallbackReturn on_configure(const rclcpp_lifecycle::State&) override {
    try {
      for (const Parameter& p : parameters())
        if (const std::string wrong = wrong_value(p.name, number(p.name)); !wrong.empty())
          throw affekt::InvalidArgument(wrong);
      model_ = affekt::Model::load(get_parameter("model").as_string());
      engine_ = std::make_unique<affekt::Engine>(
          model_, engine_options(number("queue_s"), number("reanchor_s"), number("wait_s")));
      mapping_ = std::make_unique<Mapping>(model_);
    } catch (const affekt::Error& error) {
      RCLCPP_ERROR(get_logger(), "%s", error.what());
      return CallbackReturn::FAILURE;
    }
    for (const std::string& label : mapping_->unmapped())
      RCLCPP_WARN(get_logger(), "hri_msgs/Expression has no word for the class %s", label.c_str());
    health_.clear();
    for (const affekt::InputSpec& input : model_->inputs()) health_.emplace_back(input.name);
    expressions_ = create_publisher<hri_msgs::msg::Expression>("expression", rclcpp::SensorDataQoS());
    diagnostics_ = create_publisher<diagnostic_msgs::msg::DiagnosticArray>("/diagnostics", 10);
    return CallbackReturn::SUCCESS;
  }

  CallbackReturn on_activate(const rclcpp_lifecycle::State& state) override {
    engine_->reset();
    stamps_.reset();
    for (const affekt::InputSpec& input : model_->inputs()) {
      if (input.kind == "audio" && !audio_)
        audio_ = create_subscription<AudioDataStamped>(
            input.name, rclcpp::SensorDataQoS(), [this, name = input.name](const AudioDataStamped& message) {
              std::vector<std::int16_t> pcm(message.audio.data.size() / 2);
              std::memcpy(pcm.data(), message.audio.data.data(), 2 * pcm.size());
              push(name, pcm.data(), pcm.size(), message.header);
            });
      else if (input.kind == "rows" && input.channels == 99 && !face_)
        face_ = create_subscription<FacialActionUnits>(
            input.name, rclcpp::SensorDataQoS(), [this, name = input.name](const FacialActionUnits& message) {
              push(name, message.intensity.data(), 1, message.header);
            });
      else
        RCLCPP_WARN(get_logger(), "no standard message carries the input %s: it stays silent",
                    input.name.c_str());
    }
    poll_ = create_wall_timer(std::chrono::duration<double>(1 / number("poll_hz")), [this] { poll(); });
    report_ = create_wall_timer(std::chrono::duration<double>(number("diagnostics_s")), [this] { report(); });
    return LifecycleNode::on_activate(state);
  }

  CallbackReturn on_deactivate(const rclcpp_lifecycle::State& state) override {
    poll_.reset();
    report_.reset();
    audio_.reset();
    face_.reset();
    return LifecycleNode::on_deactivate(state);
  }

  CallbackReturn on_cleanup(const rclcpp_lifecycle::State&) override {
    expressions_.reset();
    diagnostics_.reset();
    mapping_.reset();
    engine_.reset();
    model_.reset();
    return CallbackReturn::SUCCESS;
  }

 private:
  double number(const char* name) { return get_parameter(name).as_double(); }

  template <class T>
  void push(const std::string& name, const T* samples, std::size_t n, const std_msgs::msg::Header& header) {
    const double time = stamps_.seconds({header.stamp.sec, header.stamp.nanosec, header.frame_id});
    const affekt::Status status = engine_->push(name, samples, n, time);
    if (status != affekt::Status::ok)
      RCLCPP_WARN_THROTTLE(get_logger(), *get_clock(), 1000, "%s: %s", name.c_str(), affekt::message(status));
  }

  void poll() {
    affekt::Estimate estimate;
    while (engine_->poll(estimate)) {
      if (!estimate.valid) continue;
      const Expression from = (*mapping_)(estimate, stamps_.at(estimate.time));
      hri_msgs::msg::Expression message;
      message.header.stamp.sec = from.header.sec;
      message.header.stamp.nanosec = from.header.nanosec;
      message.header.frame_id = from.header.frame_id;
      message.expression = from.expression;
      message.valence = from.valence;
      message.arousal = from.arousal;
      message.confidence = from.confidence;
      expressions_->publish(message);
    }
  }

  void report() {
    diagnostic_msgs::msg::DiagnosticArray array;
    array.header.stamp = now();
    for (std::size_t i = 0; i < health_.size(); ++i) {
      const Diagnostic from = health_[i](engine_->counters(model_->inputs()[i].name));
      auto& status = array.status.emplace_back();
      status.level = from.level;
      status.name = from.name;
      status.message = from.message;
      for (const auto& [key, value] : from.values) {
        auto& pair = status.values.emplace_back();
        pair.key = key;
        pair.value = value;
      }
    }
    diagnostics_->publish(array);
  }

  std::shared_ptr<const affekt::Model> model_;
  std::unique_ptr<affekt::Engine> engine_;
  std::unique_ptr<Mapping> mapping_;
  Stamps stamps_;
  std::vector<Health> health_;
  rclcpp_lifecycle::LifecyclePublisher<hri_msgs::msg::Expression>::SharedPtr expressions_;
  rclcpp_lifecycle::LifecyclePublisher<diagnostic_msgs::msg::DiagnosticArray>::SharedPtr diagnostics_;
  rclcpp::Subscription<AudioDataStamped>::SharedPtr audio_;
  rclcpp::Subscription<FacialActionUnits>::SharedPtr face_;
  rclcpp::TimerBase::SharedPtr poll_, report_;
};

}  // namespace affekt_ros

int main(int argc, char** argv) {
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<affekt_ros::Node>()->get_node_base_interface());
  rclcpp::shutdown();
}
