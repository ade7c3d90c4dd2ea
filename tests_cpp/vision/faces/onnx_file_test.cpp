// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/onnx_file.h"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vision/faces/onnx_net.h"
#include "vision/faces/protobuf.h"

namespace attnpatch::vision::faces {
namespace {

using Message = std::vector<uint8_t>;

protobuf::Bytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

struct Field {
  uint32_t number;
  Message value;
};

Field part(uint32_t number, std::string_view text) { return {number, {text.begin(), text.end()}}; }

Message message(std::initializer_list<Field> fields,
                std::initializer_list<std::pair<uint32_t, uint64_t>> numbers = {}) {
  Message out;
  for (const auto& [field, value] : numbers) protobuf::write_number(field, value, out);
  for (const Field& field : fields) protobuf::write_bytes(field.number, field.value, out);
  return out;
}

Message dim(int64_t size) { return message({}, {{1, static_cast<uint64_t>(size)}}); }

// A value (1, 3, height, width); sizes below 1 are left open.
Message value(std::string_view name, int64_t height, int64_t width) {
  Message shape = message({{1, dim(1)}, {1, dim(3)}});
  for (const int64_t side : {height, width}) {
    protobuf::write_bytes(1, side > 0 ? dim(side) : message({part(2, "any")}), shape);
  }
  const Message tensor = message({{2, shape}}, {{1, 1}});
  return message({part(1, name), {2, message({{1, tensor}})}});
}

Message kernel_shape(int64_t side) {
  const auto number = static_cast<uint64_t>(side);
  return message({part(1, "kernel_shape")}, {{8, number}, {8, number}, {20, 7}});
}

Message weights(int64_t outputs, size_t bytes) {
  return message({part(8, "w"), {9, Message(bytes, 0)}},
                 {{1, static_cast<uint64_t>(outputs)}, {1, 3}, {1, 1}, {1, 1}, {2, 1}});
}

Message convolution(std::string_view operation, int64_t kernel) {
  return message(
      {part(1, "in"), part(1, "w"), part(2, "out"), part(4, operation), {5, kernel_shape(kernel)}});
}

// A model of one convolution with two outputs of weights of zero.
Message model(const Message& node = convolution("Conv", 1),
              const Message& tensor = weights(2, 24)) {
  const Message opset = message({part(1, "")}, {{2, 11}});
  const Message graph = message({{1, node},
                                 {5, tensor},
                                 {11, value("in", 0, 0)},
                                 {12, value("out", 0, 0)},
                                 part(2, "graph")});
  return message({{8, opset}, {7, graph}}, {{1, 6}});
}

TEST(OnnxFile, SaysWhatItHolds) {
  const OnnxFile known = read_onnx(model());
  EXPECT_EQ(known.input, "in");
  EXPECT_EQ(known.input_dims, (std::vector<int64_t>{1, 3, -1, -1}));
  EXPECT_EQ(known.outputs, std::vector<std::string>{"out"});
  EXPECT_FALSE(known.prepares_input);
}

TEST(OnnxFile, TakesASize) {
  const std::array<int64_t, 4> dims = {1, 3, 64, 96};
  const Message fixed = with_input_dims(model(), dims);
  EXPECT_EQ(read_onnx(fixed).input_dims, (std::vector<int64_t>{1, 3, 64, 96}));
  EXPECT_EQ(with_input_dims(fixed, dims), fixed);
}

TEST(OnnxFile, RunsInOpenCv) {
  const OnnxNet net("test", model());
  const cv::Mat blob = make_blob(cv::Mat(32, 64, CV_8UC3, cv::Scalar(1, 2, 3)), 0, 1);
  const auto outputs = net.run(blob);
  ASSERT_EQ(outputs.size(), 1U);
  EXPECT_EQ(outputs[0].size[1], 2);
  EXPECT_EQ(outputs[0].size[3], 64);
}

TEST(OnnxFile, RefusesWhatOpenCvWouldTakeOnTrust) {
  EXPECT_THROW(read_onnx(model(convolution("Conv", 0))), std::invalid_argument);
  EXPECT_THROW(read_onnx(model(convolution("Conv", -1))), std::invalid_argument);
  EXPECT_THROW(read_onnx(model(convolution("Conv", 1 << 20))), std::invalid_argument);
  EXPECT_THROW(read_onnx(model(convolution("Loop", 1))), std::invalid_argument);
  EXPECT_THROW(read_onnx(model(convolution("Conv", 1), weights(2, 23))), std::invalid_argument);
  EXPECT_THROW(read_onnx(model(convolution("Conv", 1), weights(200, 24))), std::invalid_argument);
  EXPECT_THROW(read_onnx(model(convolution("Conv", 1), weights(0, 0))), std::invalid_argument);
  EXPECT_THROW(read_onnx(model(convolution("Conv", 1), weights(INT64_MAX, 24))),
               std::invalid_argument);
  EXPECT_THROW(read_onnx(as_bytes("")), std::invalid_argument);
  EXPECT_THROW(read_onnx(as_bytes("no model")), std::invalid_argument);
}

TEST(OnnxFile, IsNeverReadBeyondItsEnd) {
  const Message whole = model();
  for (size_t size = 0; size < whole.size(); ++size) {
    // A copy of its own: the address sanitizer sees what lies beyond.
    const Message cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(read_onnx(cut), std::invalid_argument) << size;
  }
}

TEST(OnnxFile, DamageGivesAnErrorOrANetwork) {
  std::mt19937 random(11);  // NOLINT(cert-msc51-cpp): the same every time
  const Message whole = model();
  const cv::Mat blob = make_blob(cv::Mat(32, 32, CV_8UC3, cv::Scalar()), 0, 1);
  int errors = 0, networks = 0;
  for (int round = 0; round < 3000; ++round) {
    Message damaged = whole;
    for (uint32_t i = 0; i <= random() % 3; ++i) {
      damaged[random() % damaged.size()] = static_cast<uint8_t>(random());
    }
    try {
      OnnxNet("test", damaged).run(blob);
      ++networks;
    } catch (const std::invalid_argument&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, 0);
  EXPECT_GT(networks, 0);
}

}  // namespace
}  // namespace attnpatch::vision::faces
