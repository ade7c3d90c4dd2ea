// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#include <pybind11/operators.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "bindings/core.h"
#include "rules/grid.h"
#include "rules/layer.h"
#include "rules/layer_table.h"
#include "rules/token_reduction.h"
#include "rules/weights.h"

namespace py = pybind11;

namespace attnpatch::bindings {
namespace {

using rules::BlockDescription, rules::GridSize, rules::Layer, rules::LayerTable;
using rules::UNetDescription;

using BlockTuple = std::pair<int, std::vector<int>>;
using GridTuple = std::pair<int, int>;  // rows and columns

GridSize grid_from(const GridTuple& grid) { return {grid.first, grid.second}; }

GridTuple tuple_of(const GridSize& grid) { return {grid.rows, grid.columns}; }

py::tuple state(const Layer& layer) {
  return py::make_tuple(layer.index, rules::to_string(layer.block), layer.number, layer.transformer,
                        layer.channels, layer.level, layer.spatial, layer.name);
}

// It has as many parameters as Python's constructor has keywords.
Layer make_layer(int index, const std::string& block, int number, int transformer, int channels,
                 int level, int spatial, std::string name) {
  return {.index = index,
          .block = rules::parse_block_kind(block),
          .number = number,
          .transformer = transformer,
          .channels = channels,
          .level = level,
          .spatial = spatial,
          .name = std::move(name)};
}

Layer layer_from(const py::tuple& state) {
  return make_layer(state[0].cast<int>(), state[1].cast<std::string>(), state[2].cast<int>(),
                    state[3].cast<int>(), state[4].cast<int>(), state[5].cast<int>(),
                    state[6].cast<int>(), state[7].cast<std::string>());
}

std::string repr(const Layer& layer) {
  std::ostringstream out;
  out << "Layer(index=" << layer.index << ", block='" << rules::to_string(layer.block)
      << "', number=" << layer.number << ", transformer=" << layer.transformer
      << ", channels=" << layer.channels << ", level=" << layer.level
      << ", spatial=" << layer.spatial << ", name='" << layer.name << "')";
  return out.str();
}

std::string repr(const LayerTable& table) {
  std::ostringstream out;
  out << "<LayerTable " << table.family() << ": " << table.size() << " layers in "
      << table.spatial_count() << " spatial transformers>";
  return out.str();
}

void bind_layer(py::module_& m) {
  py::class_<Layer>(m, "Layer",
                    "One cross-attention layer of a UNet: where it stands, under every name that "
                    "hosts and checkpoints have for it.")
      .def(py::init(&make_layer), py::kw_only(), py::arg("index"), py::arg("block"),
           py::arg("number"), py::arg("transformer"), py::arg("channels"), py::arg("level"),
           py::arg("spatial"), py::arg("name"))
      .def_readonly("index", &Layer::index, "Place in checkpoint order: input, output, middle.")
      .def_property_readonly(
          "block", [](const Layer& layer) { return rules::to_string(layer.block); },
          "'input', 'middle' or 'output'.")
      .def_readonly("number", &Layer::number, "The block's number, as Stable Diffusion counts.")
      .def_readonly("transformer", &Layer::transformer,
                    "Which transformer block inside its spatial transformer.")
      .def_readonly("channels", &Layer::channels)
      .def_readonly("level", &Layer::level,
                    "0: the latent's own grid; each level halves it, rounding up.")
      .def_readonly("spatial", &Layer::spatial,
                    "The spatial transformer's number in forward order: input, middle, output.")
      .def_readonly("name", &Layer::name,
                    "As in 'down_blocks.1.attentions.0.transformer_blocks.0'.")
      .def(py::self == py::self)
      .def("__hash__", [](const Layer& layer) { return py::hash(state(layer)); })
      .def("__repr__", [](const Layer& layer) { return repr(layer); })
      .def("__copy__", [](const Layer& layer) { return layer; })
      .def("__deepcopy__", [](const Layer& layer, const py::dict&) { return layer; })
      .def(py::pickle([](const Layer& layer) { return state(layer); }, &layer_from));
}

const Layer& layer_at(const LayerTable& table, int index) {
  const int place = index < 0 ? index + table.size() : index;
  if (place < 0 || place >= table.size()) {
    throw py::index_error("layer " + std::to_string(index) + " of " + std::to_string(table.size()));
  }
  return table.layers()[static_cast<size_t>(place)];
}

std::optional<Layer> found(const Layer* layer) {
  return layer == nullptr ? std::nullopt : std::optional(*layer);
}

py::tuple states(const LayerTable& table) {
  py::tuple result(table.layers().size());
  for (size_t i = 0; i < table.layers().size(); ++i) result[i] = state(table.layers()[i]);
  return result;
}

LayerTable table_from(const py::tuple& state) {
  std::vector<Layer> layers;
  for (const auto& item : state[0].cast<py::tuple>()) {
    layers.push_back(layer_from(item.cast<py::tuple>()));
  }
  const LayerTable table(std::move(layers));
  auto heads = state[1].cast<std::vector<int>>();
  return heads.empty() ? table : table.with_heads(std::move(heads));
}

BlockDescription block_from(const BlockTuple& block) { return {block.first, block.second}; }

LayerTable table_from_description(const std::vector<BlockTuple>& input,
                                  const std::optional<BlockTuple>& middle,
                                  const std::vector<BlockTuple>& output) {
  UNetDescription description;
  for (const auto& block : input) description.input.push_back(block_from(block));
  if (middle) description.middle = block_from(*middle);
  for (const auto& block : output) description.output.push_back(block_from(block));
  return rules::make_layer_table(description);
}

void bind_layer_table(py::module_& m) {
  py::class_<LayerTable>(m, "LayerTable",
                         "The cross-attention layers of a UNet, in checkpoint order: input, "
                         "output, middle.")
      .def(py::init<std::vector<Layer>>(), py::arg("layers"))
      .def_property_readonly("spatial_count", &LayerTable::spatial_count,
                             "How many spatial transformers there are: 16 in SD1.x, 11 in SDXL.")
      .def_property_readonly("family", &LayerTable::family, "'SD1.x/SD2.x', 'SDXL' or 'custom'.")
      .def_property_readonly(
          "channels",
          [](const LayerTable& table) {
            py::tuple channels(table.layers().size());
            for (const Layer& layer : table.layers()) {
              channels[static_cast<size_t>(layer.index)] = layer.channels;
            }
            return channels;
          },
          "The channels of every layer.")
      .def_property_readonly(
          "heads", [](const LayerTable& table) { return py::tuple(py::cast(table.heads())); },
          "How many heads self-attention has at each layer, 0 where there is none; empty where "
          "nobody has said. Tables compare equal whatever their heads.")
      .def("with_heads", &LayerTable::with_heads, py::arg("heads"),
           "The same layers, with so many heads of self-attention at each; 0: there is none.")
      .def(
          "find",
          [](const LayerTable& table, const std::string& block, int number, int transformer) {
            return found(table.find(rules::parse_block_kind(block), number, transformer));
          },
          py::arg("block"), py::arg("number"), py::arg("transformer") = 0,
          "The layer of this place, or None; ('middle', 1, 0) is none.")
      .def(
          "by_name",
          [](const LayerTable& table, const std::string& name) { return found(table.find(name)); },
          py::arg("name"), "The layer of this name, or None; a trailing '.attn2…' is ignored.")
      .def("__len__", &LayerTable::size)
      .def("__getitem__", &layer_at, py::arg("index"))
      .def(
          "__iter__",
          [](const LayerTable& table) {
            return py::make_iterator(table.layers().begin(), table.layers().end());
          },
          py::keep_alive<0, 1>())
      .def(py::self == py::self)
      .def("__hash__", [](const LayerTable& table) { return py::hash(states(table)); })
      .def("__repr__", [](const LayerTable& table) { return repr(table); })
      .def("__copy__", [](const py::object& self) { return self; })
      .def("__deepcopy__", [](const py::object& self, const py::dict&) { return self; })
      .def(py::pickle(
          [](const LayerTable& table) { return py::make_tuple(states(table), table.heads()); },
          &table_from));
  m.def("layer_table", &rules::layer_table, py::arg("family"),
        "The table of 'sd1', 'sd2' or 'sdxl'.");
  m.def("make_layer_table", &table_from_description, py::arg("input"), py::arg("middle"),
        py::arg("output"));
  m.def(
      "token_grid",
      [](int height, int width, int level) {
        return tuple_of(rules::token_grid(height, width, level));
      },
      py::arg("height"), py::arg("width"), py::arg("level"),
      "The token grid (rows, columns) of a latent at a level: halved, rounding up.");
}

void bind_weights(py::module_& m) {
  m.def("weight_presets", &rules::weight_presets, "The names of the weight presets.");
  m.def("layer_weights", &rules::layer_weights, py::arg("table"), py::arg("weights"),
        "The weight of each layer, None where it has none.");
  py::class_<rules::Curve>(m, "Curve", "Piecewise linear over the progress of sampling.")
      .def(py::init<std::vector<std::pair<double, double>>>(), py::arg("points"))
      .def("__call__", &rules::Curve::operator(), py::arg("progress"));
  py::class_<rules::Window>(m, "Window", "The part of sampling in which a patch is active.")
      .def(py::init<double, double, bool>(), py::arg("start") = 0.0, py::arg("end") = 1.0,
           py::arg("end_exclusive") = false)
      .def_property_readonly("empty", &rules::Window::empty, "No progress lies inside.")
      .def_property_readonly("full", &rules::Window::full,
                             "Every progress from 0 to 1 lies inside.")
      .def("__contains__", &rules::Window::contains, py::arg("progress"));
}

void bind_token_reduction(py::module_& m) {
  m.def(
      "pool_extent",
      [](double tokens, int dimensions, const GridTuple& grid) {
        return rules::pool_extent(tokens, dimensions, grid_from(grid));
      },
      py::arg("tokens"), py::arg("dimensions"), py::arg("grid"),
      "A window or stride of any real number of tokens in whole numbers: one number along all "
      "tokens, or two along rows and columns.");
  m.def(
      "tile_shape",
      [](const GridTuple& grid, int size) {
        return tuple_of(rules::tile_shape(grid_from(grid), size));
      },
      py::arg("grid"), py::arg("size"),
      "Rows and columns of a tile: as few tiles as keep each side at most `size`, as equal as "
      "can be.");
  m.def(
      "tile_offset",
      [](const GridTuple& grid, const GridTuple& tile, uint64_t seed, double timestep,
         uint64_t layer) {
        return tuple_of(
            rules::tile_offset(grid_from(grid), grid_from(tile), seed, timestep, layer));
      },
      py::arg("grid"), py::arg("tile"), py::arg("seed"), py::arg("timestep"), py::arg("layer"),
      "How far the first tiles reach out of the grid, the same for the same seed, timestep and "
      "layer.");
}

}  // namespace

void bind_rules(py::module_& m) {
  bind_layer(m);
  bind_layer_table(m);
  bind_weights(m);
  bind_token_reduction(m);
}

}  // namespace attnpatch::bindings
