# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""UNets of Stable Diffusion in ComfyUI's model patcher, which Fooocus and others have as well."""
