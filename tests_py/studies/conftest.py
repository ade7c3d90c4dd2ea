# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from small_unet import adapter, prompt, table, tokens  # noqa: F401

pytest.importorskip("diffusers")


@pytest.fixture(scope="session")
def fashion():
    """The model in the package."""
    from attnpatch.studies.models.fashion import FashionModel

    return FashionModel()
