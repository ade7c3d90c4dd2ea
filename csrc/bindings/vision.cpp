// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <limits>
#include <opencv2/core.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef ATTNPATCH_FACES
#include "bindings/faces.h"
#endif
#include "vision/clip_preprocess.h"

namespace py = pybind11;

namespace attnpatch::bindings {
namespace {

int checked_side(py::ssize_t side) {
  if (side > std::numeric_limits<int>::max()) {
    throw std::invalid_argument("images: expected sides below 2^31, got " + std::to_string(side));
  }
  return static_cast<int>(side);
}

py::array_t<float> clip_preprocess_batch(const py::array_t<uint8_t, py::array::c_style>& images,
                                         int size, const std::string& crop, bool normalize) {
  if (images.ndim() != 4 || images.shape(3) != 3) {
    throw std::invalid_argument("images: expected the shape (B, H, W, 3)");
  }
  const vision::ClipPreprocessOptions options{size, vision::parse_crop(crop), normalize};
  vision::check_options(options);
  const int height = checked_side(images.shape(1)), width = checked_side(images.shape(2));
  const py::ssize_t batch = images.shape(0);
  py::array_t<float> pixels({batch, py::ssize_t{3}, py::ssize_t{size}, py::ssize_t{size}});
  const uint8_t* in = images.data();
  float* out = pixels.mutable_data();
  const py::ssize_t in_step = py::ssize_t{3} * height * width;
  const py::ssize_t out_step = py::ssize_t{3} * size * size;
  {
    const py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < batch; ++i) {
      // OpenCV has no matrix of constants; this one is only read.
      const cv::Mat picture(height, width, CV_8UC3, const_cast<uint8_t*>(in + i * in_step));
      vision::clip_preprocess(picture, options, out + i * out_step);
    }
  }
  return pixels;
}

void bind_clip_preprocess(py::module_& m) {
  m.def("clip_preprocess", &clip_preprocess_batch, py::arg("images").noconvert(), py::arg("size"),
        py::arg("crop"), py::arg("normalize"),
        "See attnpatch.vision.clip_preprocess; images are contiguous (B, H, W, 3).");
}

void translate_opencv_error(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(std::move(pointer));
  } catch (const cv::Exception& error) {
    py::set_error(error.code == cv::Error::StsNoMem ? PyExc_MemoryError : PyExc_RuntimeError,
                  error.what());
  }
}

}  // namespace
}  // namespace attnpatch::bindings

PYBIND11_MODULE(_vision, m) {
  m.doc() = "Pictures: numpy in and out.";
  pybind11::register_local_exception_translator(&attnpatch::bindings::translate_opencv_error);
  m.attr("MAX_CLIP_SIZE") = attnpatch::vision::kMaxClipSize;
  attnpatch::bindings::bind_clip_preprocess(m);
#ifdef ATTNPATCH_FACES
  attnpatch::bindings::bind_faces(m);
#endif
}
