# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The playground: pictures without and with patches, side by side, in the browser."""
