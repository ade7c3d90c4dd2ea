# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Import modules in an order, then use each, and compare: ``neighbours.py MODULE …``.

Run by the checks in an environment that holds a wheel, beside generated networks and a picture.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

NETWORKS = Path("networks").resolve()


def main(order: list[str]) -> None:
    """Raise where one module disturbs another."""
    modules = {name: importlib.import_module(name) for name in order}
    check_faces(modules["cv2"])
    check_networks(modules["cv2"], modules["onnxruntime"])
    check_operators()


def check_faces(cv2: Any) -> None:
    """Compare our OpenCV's faces with those of insightface, which uses the others."""
    import numpy as np
    from insightface.app import FaceAnalysis

    import attnpatch.faces

    picture = cv2.imread("picture.png")
    (ours, *_) = attnpatch.faces.FaceAnalysis(NETWORKS).get(
        np.ascontiguousarray(picture[..., ::-1])
    )
    app = FaceAnalysis(name=str(NETWORKS))
    app.prepare(ctx_id=-1, det_size=(640, 640))
    (theirs, *_) = app.get(picture)
    np.testing.assert_allclose(ours.box, theirs.bbox, atol=0.1)
    # Keypoints that differ by a rounding change the crop by 1 of 255 here and there.
    np.testing.assert_allclose(ours.normed_embedding, theirs.normed_embedding, atol=1e-3)


def check_networks(cv2: Any, onnxruntime: Any) -> None:
    """Compare the neighbours with each other."""
    import numpy as np

    file = str(NETWORKS / "glintr100.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    blob = np.random.default_rng(0).standard_normal((1, 3, 112, 112)).astype(np.float32)
    (wanted,) = session.run(None, {"input.1": blob})
    net = cv2.dnn.readNetFromONNX(file)
    net.setInput(blob)
    np.testing.assert_allclose(net.forward(), wanted, rtol=1e-3, atol=1e-3)


def check_operators() -> None:
    """Compare a kernel with its reference."""
    import torch

    from attnpatch import ops

    query, key, value = torch.randn(3, 1, 2, 64, 40).unbind()
    for found, wanted in zip(
        ops.attention_column_mean(query, key, value),
        ops.attention_column_mean_reference(query, key, value),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
