// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// A face network from an ONNX file, run by OpenCV.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <opencv2/dnn.hpp>
#include <span>
#include <string>
#include <vector>

#include "vision/faces/onnx_file.h"

namespace attnpatch::vision::faces {

// Safe to use from several threads; those that ask for one picture size take turns.
class OnnxNet {
 public:
  // `what` names the network in errors. `only` (height, width): the one size that it will be used
  // with; the file is then not kept. Throws std::invalid_argument for files that are not trusted or
  // that OpenCV does not read.
  OnnxNet(std::string what, std::span<const uint8_t> file);
  OnnxNet(std::string what, std::span<const uint8_t> file, std::array<int, 2> only);

  const OnnxFile& file() const { return file_; }

  // blob: (1, 3, height, width), fp32. Gives the outputs in the file's order, or in OpenCV's where
  // names are lost. Throws std::invalid_argument where the network and the size do not go together.
  std::vector<cv::Mat> run(const cv::Mat& blob) const;

 private:
  struct Prepared {
    cv::dnn::Net net;
    std::vector<cv::String> outputs;
    std::mutex mutex;
  };

  std::shared_ptr<Prepared> prepare(std::span<const uint8_t> file, int height, int width) const;
  std::shared_ptr<Prepared> prepared(int height, int width) const;

  std::string what_;
  OnnxFile file_;
  std::vector<uint8_t> bytes_;  // empty where one size alone is used
  mutable std::mutex mutex_;
  mutable std::map<std::array<int, 2>, std::shared_ptr<Prepared>> prepared_;
};

// (1, 3, height, width) of an RGB picture, CV_8UC3: (value - mean) / deviation.
cv::Mat make_blob(const cv::Mat& picture, float mean, float deviation);

}  // namespace attnpatch::vision::faces
