# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The folder that a sweep gives: pictures, records, a table, a contact sheet, a page."""
