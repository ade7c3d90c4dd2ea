# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Fashion-MNIST as Debian packages it: gzipped IDX files, read with the standard library and numpy.

Splits: ``train`` (the first 55 000 training items), ``tuning`` (the last 5 000, for choosing
settings) and ``test`` (the 10 000 test items, touched only by the final evaluation).
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch

from attnpatch.demo.items import Split

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")
TUNING_ITEMS = 5000


def dataset_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Find the dataset's folder.

    Raises
    ------
    FileNotFoundError
        When the IDX files are not there; the message names the package that has them.
    """
    path = Path(folder) if folder is not None else DEFAULT_FOLDER
    if not (path / "train-images-idx3-ubyte.gz").is_file():
        raise FileNotFoundError(
            f"Fashion-MNIST is not in {path}: install it with 'apt install dataset-fashion-mnist' "
            "or pass the folder that holds train-images-idx3-ubyte.gz and the other three files"
        )
    return path


def load_split(name: str, folder: str | os.PathLike[str] | None = None) -> Split:
    """Load one split.

    Parameters
    ----------
    name : {"train", "tuning", "test"}
    folder : path, optional
        Where the four IDX files are; by default where Debian puts them.

    Raises
    ------
    ValueError
        For an unknown name.
    FileNotFoundError
        When the dataset is not installed.
    """
    if name not in ("train", "tuning", "test"):
        raise ValueError(f"name: got {name!r}, expected 'train', 'tuning' or 'test'")
    path = dataset_folder(folder)
    stem = "t10k" if name == "test" else "train"
    images = torch.from_numpy(read_idx(path / f"{stem}-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(read_idx(path / f"{stem}-labels-idx1-ubyte.gz")).long()
    if name == "train":
        images, labels = images[:-TUNING_ITEMS], labels[:-TUNING_ITEMS]
    elif name == "tuning":
        images, labels = images[-TUNING_ITEMS:], labels[-TUNING_ITEMS:]
    return Split(images, labels)


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes.

    Raises
    ------
    ValueError
        When the file's head is not that of an IDX file of bytes, or its length does not fit.
    """
    with gzip.open(path, "rb") as file:
        data = file.read()
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    rank = data[3]
    shape = tuple(np.frombuffer(data, ">u4", rank, 4).tolist())
    body = np.frombuffer(data, np.uint8, -1, 4 + 4 * rank)
    if body.size != int(np.prod(shape)):
        raise ValueError(f"{path}: {body.size} bytes, expected {shape}")
    return body.reshape(shape).copy()
