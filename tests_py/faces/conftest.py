# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for networks

networks = pytest.importorskip("networks", reason="onnx is not installed", exc_type=ImportError)


@pytest.fixture(scope="session")
def detector():
    return networks.make_detector()


@pytest.fixture(scope="session")
def recogniser():
    return networks.make_recogniser()


@pytest.fixture(scope="session")
def pack(tmp_path_factory, detector, recogniser):
    """A folder with both, as a user has it."""
    folder = tmp_path_factory.mktemp("models") / "pack"
    folder.mkdir()
    (folder / "scrfd_10g_bnkps.onnx").write_bytes(detector)
    (folder / "glintr100.onnx").write_bytes(recogniser)
    return folder


@pytest.fixture(scope="session")
def analysis(pack):
    from attnpatch.faces import FaceAnalysis

    return FaceAnalysis(pack)


@pytest.fixture(scope="session")
def astronaut():
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="session")
def mtcnn():
    """An analysis with the learned weights of facenet-pytorch's MTCNN."""
    from attnpatch.faces import FaceAnalysis, FaceFiles

    detector = networks.make_mtcnn_detector()
    if detector is None:
        pytest.skip("facenet-pytorch is not installed")
    return FaceAnalysis(FaceFiles(detector, networks.make_recogniser(), "mtcnn"))


@pytest.fixture
def insightface_of():
    """Make insightface's own analysis of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app = pytest.importorskip("insightface.app")

    def make(folder, size=640):
        found = app.FaceAnalysis(name=str(folder))
        found.prepare(ctx_id=-1, det_size=(size, size))
        return found

    return make
