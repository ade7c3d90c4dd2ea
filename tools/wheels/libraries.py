# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The libraries inside a wheel: built static, from the distribution's own source packages.

The distribution's binaries would do as well, but its OpenCV brings LAPACK, OpenGL, X11 and some
forty other libraries that are never called here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "bundled"
"""CMake's ``ATTNPATCH_BUNDLED``: the folders prefix, licenses and sboms."""


@dataclass(frozen=True)
class Library:
    """A library that wheels carry."""

    package: str
    """Name of the distribution's source package."""
    name: str
    licence: str
    """SPDX expression of the parts that are linked."""
    homepage: str
    licence_files: tuple[str, ...]
    """Names of the files that hold it, in the sources."""
    options: tuple[str, ...] = ()
    """CMake's, beside the common ones; ``{prefix}`` stands for where all are installed,
    ``{protoc}`` for whether protobuf's compiler is built too."""
    left_out: tuple[str, ...] = ()
    """Files that the distribution leaves out and CMake wants to see, though nothing reads them."""


# What OpenCV would use where a machine happens to have it.
_OPENCV_WITHOUT = (
    *("1394", "ADE", "CLP", "CUDA", "EIGEN", "FFMPEG", "FLATBUFFERS", "GSTREAMER", "GTK", "HALIDE"),
    *("HPX", "IPP", "ITT", "JASPER", "JPEG", "LAPACK", "OPENCL", "OPENCLAMDBLAS", "OPENCLAMDFFT"),
    *("OPENEXR", "OPENGL", "OPENJPEG", "OPENMP", "OPENVINO", "PNG", "QT", "QUIRC", "TBB", "TIFF"),
    *("TIMVX", "V4L", "VA", "VA_INTEL", "VTK", "VULKAN", "WEBNN", "WEBP", "XINE"),
)

LIBRARIES = (
    Library(
        package="zlib",
        name="zlib",
        licence="Zlib",
        homepage="https://zlib.net",
        licence_files=("debian/copyright",),
        left_out=("win32/zlib1.rc",),
    ),
    Library(
        package="highway",
        name="Highway",
        licence="Apache-2.0",
        homepage="https://github.com/google/highway",
        licence_files=("LICENSE",),
        options=(
            "-DHWY_ENABLE_CONTRIB=OFF",
            "-DHWY_ENABLE_EXAMPLES=OFF",
            "-DHWY_ENABLE_TESTS=OFF",
        ),
    ),
    Library(
        package="eigen3",
        name="Eigen",
        licence="MPL-2.0",
        homepage="https://eigen.tuxfamily.org",
        licence_files=("COPYING.MPL2",),
        options=("-DEIGEN_BUILD_DOC=OFF", "-DEIGEN_BUILD_PKGCONFIG=OFF"),
    ),
    Library(
        package="protobuf",
        name="Protocol Buffers",
        licence="BSD-3-Clause",
        homepage="https://protobuf.dev",
        licence_files=("LICENSE",),
        options=(
            "-Dprotobuf_BUILD_TESTS=OFF",
            "-Dprotobuf_BUILD_PROTOC_BINARIES={protoc}",
            "-Dprotobuf_WITH_ZLIB=OFF",
        ),
    ),
    Library(
        package="opencv",
        name="OpenCV",
        licence="Apache-2.0 AND BSD-3-Clause",
        homepage="https://opencv.org",
        licence_files=("LICENSE", "COPYRIGHT"),
        options=(
            "-DBUILD_LIST=core,imgproc,dnn",
            "-DBUILD_PROTOBUF=OFF",
            "-DPROTOBUF_UPDATE_FILES=ON",
            "-DBUILD_ZLIB=OFF",
            "-DZLIB_LIBRARY={prefix}/lib/libz.a",
            "-DCPU_DISPATCH=AVX2,AVX512_SKX",
            "-DENABLE_PRECOMPILED_HEADERS=OFF",
            "-DOPENCV_DNN_OPENCL=OFF",
            "-DOPENCV_GENERATE_SETUPVARS=OFF",
            "-DOPENCV_ENABLE_ALLOCATOR_STATS=OFF",
            *(
                f"-DBUILD_{what}=OFF"
                for what in ("TESTS", "PERF_TESTS", "EXAMPLES", "DOCS", "JAVA")
            ),
            *(f"-DBUILD_{what}=OFF" for what in ("opencv_apps", "opencv_python3", "opencv_js")),
            *(f"-DWITH_{what}=OFF" for what in _OPENCV_WITHOUT),
        ),
    ),
)
