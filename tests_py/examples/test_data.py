# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

import gzip
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.demo.items import to_pixels
from fashion_mnist.data import dataset_folder, load_split, read_idx


def write_idx(path, array):
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    head += struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), 1))


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_reads_what_was_written(tmp_path_factory, shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path = tmp_path_factory.mktemp("idx") / "items.gz"
    write_idx(path, array)
    np.testing.assert_array_equal(read_idx(path), array)


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x0d\x01\x00\x00\x00\x01a", b"PK\x03\x04"])
def test_refuses_other_files(tmp_path, data):
    path = tmp_path / "items.gz"
    path.write_bytes(gzip.compress(data))
    with pytest.raises(ValueError, match="not an IDX file"):
        read_idx(path)


def test_refuses_a_short_file(tmp_path):
    path = tmp_path / "items.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abc"))
    with pytest.raises(ValueError, match=r"3 bytes, expected \(5,\)"):
        read_idx(path)


def test_a_missing_dataset_names_its_package(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        dataset_folder(tmp_path)


def test_unknown_split():
    with pytest.raises(ValueError, match="name: got 'validation'"):
        load_split("validation")


def test_pixels_are_padded_with_background():
    pixels = to_pixels(torch.full((2, 28, 28), 255, dtype=torch.uint8))
    assert pixels.shape == (2, 1, 32, 32)
    assert pixels[:, :, 2:-2, 2:-2].eq(1.0).all()
    pixels[:, :, 2:-2, 2:-2] = -1.0
    assert pixels.eq(-1.0).all()
