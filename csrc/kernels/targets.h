// SPDX-FileCopyrightText: 2026 The attnpatch authors
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <string>
#include <vector>

namespace attnpatch::kernels {

// Instruction sets that the CPU kernels were compiled for and this machine has, best first. Those
// whose name ends in "_BF16" multiply pairs of bf16, too, in "_AMX" tiles of them as well.
std::vector<std::string> cpu_targets();

// Makes every CPU kernel use the named instruction set; an empty name gives the choice back.
// Throws std::invalid_argument for a name that is not in cpu_targets().
void force_cpu_target(const std::string& name);

}  // namespace attnpatch::kernels
