// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

// The picture that a CLIP vision tower sees: shorter side resized to `size` (bicubic, antialiased,
// 8-bit, see resample.h), a square of it, then (x / 255 - mean) / std per channel. Equal to the
// pictures of transformers' CLIPImageProcessor (its Pillow form).

#pragma once

#include <opencv2/core.hpp>
#include <string>

namespace attnpatch::vision {

constexpr int kMaxClipSize = 8192;

// Which square of the resized picture is kept. kPad: all of it, the longer side resized to `size`
// instead, centred on black.
enum class Crop { kCenter, kTop, kBottom, kLeft, kRight, kPad };

// Throws std::invalid_argument for an unknown name.
Crop parse_crop(const std::string& name);

struct ClipPreprocessOptions {
  int size = 224;
  Crop crop = Crop::kCenter;
  bool normalize = true;  // false: values in [0, 1]
};

// Throws std::invalid_argument where an option is out of range.
void check_options(const ClipPreprocessOptions& options);

// picture: RGB, CV_8UC3, of at least one pixel; out: (3, size, size), written.
void clip_preprocess(const cv::Mat& picture, const ClipPreprocessOptions& options, float* out);

}  // namespace attnpatch::vision
