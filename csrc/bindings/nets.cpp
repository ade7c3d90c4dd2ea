// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <pybind11/stl.h>

#include <optional>
#include <utility>
#include <vector>

#include "bindings/core.h"
#include "bindings/tensor_caster.h"
#include "nets/projections.h"
#include "nets/resampler.h"
#include "nets/site_projections.h"

namespace attnpatch::bindings {

void bind_nets(pybind11::module_& m) {
  namespace py = pybind11;
  using nets::FaceIdPlusProjection, nets::LinearProjection, nets::MlpProjection;
  using nets::Resampler, nets::SiteProjections, nets::Weights;
  using torch::stable::Tensor;
  using Release = py::call_guard<py::gil_scoped_release>;

  py::class_<LinearProjection>(m, "LinearProjection", "Linear, reshape to tokens, LayerNorm.")
      .def(py::init<const Weights&>(), py::arg("weights"))
      .def("__call__", &LinearProjection::operator(), py::arg("embeds"), Release());
  py::class_<MlpProjection>(m, "MlpProjection", "Linear, GELU, Linear, LayerNorm.")
      .def(py::init<const Weights&>(), py::arg("weights"))
      .def("__call__", &MlpProjection::operator(), py::arg("embeds"), Release());
  py::class_<Resampler>(m, "Resampler", "A perceiver that starts from learned latents.")
      .def(py::init<const Weights&>(), py::arg("weights"))
      .def("__call__", &Resampler::operator(), py::arg("features"), Release());
  py::class_<FaceIdPlusProjection>(m, "FaceIdPlusProjection",
                                   "Tokens of a face embedding that look at CLIP hidden states.")
      .def(py::init<const Weights&>(), py::arg("weights"))
      .def("__call__", &FaceIdPlusProjection::operator(), py::arg("id_embeds"),
           py::arg("hidden_states"), py::arg("shortcut_scale") = std::nullopt, Release());
  py::class_<SiteProjections>(m, "SiteProjections", "Image tokens to keys and values, per site.")
      .def(py::init<std::vector<std::pair<Tensor, Tensor>>>(), py::arg("weights"))
      .def("__call__", &SiteProjections::operator(), py::arg("tokens"), Release());
}

}  // namespace attnpatch::bindings
