// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "vision/faces/onnx_net.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <opencv2/core/utils/logger.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace attnpatch::vision::faces {
namespace {

constexpr double kMaxBlob = 1 << 26;   // values between two layers: 256 MiB
constexpr double kMaxBlobs = 1 << 30;  // of all layers together

constexpr int64_t kMaxWork = int64_t{1} << 40;  // operations; ArcFace's largest want 2^35

// OpenCV also logs what it throws.
class Quiet {
 public:
  Quiet() : level_(cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT)) {}
  ~Quiet() { cv::utils::logging::setLogLevel(level_); }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  cv::utils::logging::LogLevel level_;
};

// The memory and the time that the layers want, before any is taken.
void check_cost(const cv::dnn::Net& net, int height, int width) {
  std::vector<int> ids;
  std::vector<std::vector<cv::dnn::MatShape>> inputs, outputs;
  net.getLayersShapes({1, 3, height, width}, ids, inputs, outputs);
  double all = 0;
  for (const auto& layer : outputs) {
    for (const auto& shape : layer) {
      double size = 1;
      for (const int side : shape) size *= side;
      all += size;
      if (size > kMaxBlob || all > kMaxBlobs)
        throw std::invalid_argument("it wants too much memory");
    }
  }
  const int64_t work = net.getFLOPS(cv::dnn::MatShape{1, 3, height, width});
  if (work < 0 || work > kMaxWork) throw std::invalid_argument("it wants too much time");
}

}  // namespace

OnnxNet::OnnxNet(std::string what, std::span<const uint8_t> file) : what_(std::move(what)) {
  try {
    file_ = read_onnx(file);
    const auto& dims = file_.input_dims;
    if (dims.size() != 4 || (dims[0] != 1 && dims[0] != -1) || (dims[1] != 3 && dims[1] != -1)) {
      throw std::invalid_argument("it does not take pictures (1, 3, height, width)");
    }
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(what_ + ": " + error.what());
  }
  bytes_.assign(file.begin(), file.end());
}

OnnxNet::OnnxNet(std::string what, std::span<const uint8_t> file, std::array<int, 2> only)
    : OnnxNet(std::move(what), file) {
  prepared_[only] = prepare(bytes_, only[0], only[1]);
  bytes_ = {};
}

std::shared_ptr<OnnxNet::Prepared> OnnxNet::prepare(std::span<const uint8_t> file, int height,
                                                    int width) const {
  try {
    const std::array<int64_t, 4> dims = {1, 3, height, width};
    const std::vector<uint8_t> fixed = with_input_dims(file, dims);
    const Quiet quiet;
    auto made = std::make_shared<Prepared>();
    made->net = cv::dnn::readNetFromONNX(reinterpret_cast<const char*>(fixed.data()), fixed.size());
    made->net.setPreferableBackend(cv::dnn::DNN_BACKEND_OPENCV);
    check_cost(made->net, height, width);
    made->outputs = made->net.getUnconnectedOutLayersNames();
    return made;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw std::invalid_argument(what_ + ": OpenCV does not read it for pictures of " +
                                std::to_string(width) + " × " + std::to_string(height) + ": " +
                                error.what());
  }
}

std::shared_ptr<OnnxNet::Prepared> OnnxNet::prepared(int height, int width) const {
  const std::scoped_lock lock(mutex_);
  auto& found = prepared_[{height, width}];
  if (!found) {
    if (bytes_.empty()) throw std::logic_error(what_ + ": made for one size, asked for another");
    found = prepare(bytes_, height, width);
  }
  return found;
}

std::vector<cv::Mat> OnnxNet::run(const cv::Mat& blob) const {
  const auto ready = prepared(blob.size[2], blob.size[3]);
  const std::scoped_lock lock(ready->mutex);
  try {
    const Quiet quiet;
    ready->net.setInput(blob);
    std::vector<cv::Mat> outputs;
    ready->net.forward(outputs, ready->outputs);
    for (cv::Mat& output : outputs) output = output.clone();  // the network reuses its own
    return outputs;
  } catch (const cv::Exception& error) {
    throw std::invalid_argument(what_ + ": it can not be computed: " + error.what());
  }
}

cv::Mat make_blob(const cv::Mat& picture, float mean, float deviation) {
  const int size[] = {1, 3, picture.rows, picture.cols};
  cv::Mat blob(4, size, CV_32F);
  const float scale = 1 / deviation;
  const size_t plane = picture.total();
  auto* out = blob.ptr<float>();
  for (int y = 0; y < picture.rows; ++y) {
    const uint8_t* row = picture.ptr<uint8_t>(y);
    for (int x = 0; x < picture.cols; ++x, ++out) {
      for (size_t c = 0; c < 3; ++c) {
        out[c * plane] = (static_cast<float>(row[3 * x + static_cast<int>(c)]) - mean) * scale;
      }
    }
  }
  return blob;
}

}  // namespace attnpatch::vision::faces
