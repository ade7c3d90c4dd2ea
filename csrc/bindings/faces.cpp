// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include "bindings/faces.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "vision/faces/face_alignment.h"
#include "vision/faces/face_drawing.h"
#include "vision/faces/face_recogniser.h"
#include "vision/faces/face_search.h"
#include "vision/faces/onnx_file.h"

namespace py = pybind11;

namespace attnpatch::bindings {
namespace {

using vision::faces::FaceDetector, vision::faces::FaceRecogniser;
using vision::faces::Keypoints, vision::faces::kKeypoints;

using Picture = py::array_t<uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

// OpenCV's view of a picture; it is only read.
cv::Mat as_picture(const Picture& picture) {
  constexpr py::ssize_t kMaxSide = std::numeric_limits<int>::max();
  const bool fits = picture.ndim() == 3 && picture.shape(2) == 3 && picture.size() > 0 &&
                    picture.shape(0) <= kMaxSide && picture.shape(1) <= kMaxSide;
  if (!fits) throw std::invalid_argument("picture: expected RGB of shape (H, W, 3), not empty");
  return {static_cast<int>(picture.shape(0)), static_cast<int>(picture.shape(1)), CV_8UC3,
          const_cast<uint8_t*>(picture.data())};
}

std::span<const uint8_t> as_bytes(const py::buffer_info& info) {
  if (info.itemsize != 1 || info.ndim != 1 || (info.size > 0 && info.strides[0] != 1)) {
    throw std::invalid_argument("file: expected bytes");
  }
  return {static_cast<const uint8_t*>(info.ptr), static_cast<size_t>(info.size)};
}

Keypoints as_keypoints(const Floats& points) {
  if (points.ndim() != 2 || points.shape(0) != kKeypoints || points.shape(1) != 2) {
    throw std::invalid_argument("keypoints: expected the shape (5, 2)");
  }
  Keypoints keypoints;
  for (int i = 0; i < kKeypoints; ++i) keypoints[i] = {points.at(i, 0), points.at(i, 1)};
  return keypoints;
}

py::array_t<uint8_t> to_array(const cv::Mat& picture) {
  py::array_t<uint8_t> array({picture.rows, picture.cols, 3});
  picture.copyTo(cv::Mat(picture.rows, picture.cols, CV_8UC3, array.mutable_data()));
  return array;
}

py::tuple find(const FaceDetector& detector, const Picture& picture, std::vector<int> sizes,
               std::vector<float> paddings, float threshold) {
  const cv::Mat view = as_picture(picture);
  vision::faces::FacesFound found;
  {
    const py::gil_scoped_release release;
    found = vision::faces::find_faces(detector, view,
                                      {std::move(sizes), std::move(paddings), threshold});
  }
  const auto count = static_cast<py::ssize_t>(found.faces.size());
  py::array_t<float> boxes({count, py::ssize_t{4}}), scores(count),
      keypoints({count, py::ssize_t{kKeypoints}, py::ssize_t{2}});
  for (py::ssize_t i = 0; i < count; ++i) {
    const vision::faces::Detection& face = found.faces[i];
    std::copy(face.box.begin(), face.box.end(), boxes.mutable_data(i, 0));
    scores.mutable_at(i) = face.score;
    for (int j = 0; j < kKeypoints; ++j) {
      keypoints.mutable_at(i, j, 0) = face.keypoints[j].x;
      keypoints.mutable_at(i, j, 1) = face.keypoints[j].y;
    }
  }
  return py::make_tuple(boxes, scores, keypoints, found.at.size, found.at.padding);
}

py::array_t<float> embed(const FaceRecogniser& recogniser, const Picture& picture,
                         const Floats& points) {
  const cv::Mat view = as_picture(picture);
  const Keypoints keypoints = as_keypoints(points);
  std::vector<float> embedding;
  {
    const py::gil_scoped_release release;
    embedding = recogniser.embed(view, keypoints);
  }
  return py::array_t<float>(static_cast<py::ssize_t>(embedding.size()), embedding.data());
}

py::dict describe(const py::buffer& file) {
  const py::buffer_info info = file.request();
  const vision::faces::OnnxFile known = vision::faces::read_onnx(as_bytes(info));
  py::dict found;
  found["input"] = known.input;
  found["input_dims"] = known.input_dims;
  found["outputs"] = known.outputs;
  return found;
}

py::bytes fix_input(const py::buffer& file, const std::array<int64_t, 4>& dims) {
  const py::buffer_info info = file.request();
  const auto fixed = vision::faces::with_input_dims(as_bytes(info), dims);
  return {reinterpret_cast<const char*>(fixed.data()), fixed.size()};
}

py::array_t<double> transform(const Floats& keypoints, int size) {
  const cv::Matx23d found = vision::faces::face_transform(as_keypoints(keypoints), size);
  py::array_t<double> matrix({2, 3});
  std::copy(found.val, found.val + 6, matrix.mutable_data());
  return matrix;
}

py::array_t<uint8_t> draw(const Floats& keypoints, int height, int width) {
  constexpr int kMaxSide = 1 << 15;
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide) {
    throw std::invalid_argument("height, width: expected 1 to 32768, got " +
                                std::to_string(height) + " and " + std::to_string(width));
  }
  cv::Mat canvas(height, width, CV_8UC3);
  vision::faces::draw_keypoints(as_keypoints(keypoints), canvas);
  return to_array(canvas);
}

// Reads the file without the GIL; the buffer stays alive as long.
template <typename Net>
std::unique_ptr<Net> load(const py::buffer& file) {
  const py::buffer_info info = file.request();
  const auto bytes = as_bytes(info);
  const py::gil_scoped_release release;
  return std::make_unique<Net>(bytes);
}

}  // namespace

void bind_faces(py::module_& m) {
  py::class_<FaceDetector>(m, "FaceDetector", "SCRFD, from the bytes of an ONNX file.")
      .def(py::init(&load<FaceDetector>), py::arg("file"))
      .def_property_readonly("fixed_size", &FaceDetector::fixed_size)
      .def("find", &find, py::arg("picture").noconvert(), py::arg("sizes"), py::arg("paddings"),
           py::arg("threshold"),
           "Faces of an RGB picture (H, W, 3), best first: boxes (F, 4), scores (F,), keypoints "
           "(F, 5, 2), and the size and padding at which they were found.");
  py::class_<FaceRecogniser>(m, "FaceRecogniser", "ArcFace, from the bytes of an ONNX file.")
      .def(py::init(&load<FaceRecogniser>), py::arg("file"))
      .def_property_readonly("size", &FaceRecogniser::size)
      .def("embed", &embed, py::arg("picture").noconvert(), py::arg("keypoints"),
           "The embedding of the face with these keypoints (5, 2) in an RGB picture (H, W, 3).");
  m.def("describe_onnx", &describe, py::arg("file"),
        "Input, its sizes (-1: any) and outputs of an ONNX file of a face network.");
  m.def("fix_onnx_input", &fix_input, py::arg("file"), py::arg("dims"),
        "The file with the sizes of its input written into it.");
  m.def("face_transform", &transform, py::arg("keypoints"), py::arg("size"),
        "The similarity (2, 3) that takes keypoints (5, 2) to the template of a crop.");
  m.def(
      "align_face",
      [](const Picture& picture, const Floats& keypoints, int size) {
        return to_array(
            vision::faces::align_face(as_picture(picture), as_keypoints(keypoints), size));
      },
      py::arg("picture").noconvert(), py::arg("keypoints"), py::arg("size"),
      "The aligned face (size, size, 3) of an RGB picture (H, W, 3).");
  m.def("draw_keypoints", &draw, py::arg("keypoints"), py::arg("height"), py::arg("width"),
        "The picture (height, width, 3) of keypoints (5, 2) for a ControlNet.");
}

}  // namespace attnpatch::bindings
