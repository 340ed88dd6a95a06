"""Native kernels: built once, cached, and never a need."""

import ctypes
import os
import subprocess
import sys
import warnings

import pytest

from drivetrain.base import native

SOURCE = 'extern "C" double twice(double x) { return 2 * x; }\n'


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIVETRAIN_CACHE", str(tmp_path / "cache"))
    native._load.cache_clear()
    source = tmp_path / "twice.cpp"
    source.write_text(SOURCE)
    yield source
    native._load.cache_clear()


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
def test_a_kernel_is_built_run_and_cached(kernel, tmp_path):
    library = native.load(kernel)
    library.twice.restype, library.twice.argtypes = ctypes.c_double, [ctypes.c_double]
    assert library.twice(21.0) == 42.0
    (built,) = (tmp_path / "cache" / "native").glob("*.so")
    stamp = built.stat().st_mtime_ns
    native._load.cache_clear()
    assert native.load(kernel) is not None
    assert built.stat().st_mtime_ns == stamp


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
def test_changed_source_is_built_anew(kernel):
    native.load(kernel)
    kernel.write_text(SOURCE.replace("2 *", "3 *"))
    native._load.cache_clear()
    library = native.load(kernel)
    library.twice.restype, library.twice.argtypes = ctypes.c_double, [ctypes.c_double]
    assert library.twice(1.0) == 3.0


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
def test_a_changed_header_is_a_changed_kernel(kernel, tmp_path):
    (tmp_path / "factor.hpp").write_text('#include "base.hpp"\n')
    kernel.write_text('#include <cmath>\n#include "factor.hpp"\n' + SOURCE.replace("2 *", "FACTOR *"))
    for factor in (2.0, 3.0):
        (tmp_path / "base.hpp").write_text(f"constexpr double FACTOR = {factor};\n")
        native._load.cache_clear()
        library = native.load(kernel)
        library.twice.restype, library.twice.argtypes = ctypes.c_double, [ctypes.c_double]
        assert library.twice(1.0) == factor


def test_without_a_compiler_one_warning_and_none(kernel, monkeypatch):
    monkeypatch.setenv("DRIVETRAIN_NATIVE", "0")
    with pytest.warns(native.NativeKernelWarning, match="no C\\+\\+ compiler"):
        assert native.load(kernel) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.load(kernel) is None


@pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")
def test_a_kernel_that_does_not_compile_shows_the_compiler_and_leaves_no_library(kernel, tmp_path):
    kernel.write_text("this is not C++")
    with pytest.warns(native.NativeKernelWarning, match="twice.cpp"):
        assert native.load(kernel) is None
    assert not list((tmp_path / "cache" / "native").iterdir())


def test_the_compiler_in_the_ziglang_wheel_serves_where_there_is_no_other(tmp_path):
    pytest.importorskip("ziglang", reason="the ziglang wheel is not installed")
    program = (
        "import pathlib, sys; from drivetrain.base import native; "
        "assert 'ziglang' in native.compiler(); assert native.load(pathlib.Path(sys.argv[1]))"
    )
    source = tmp_path / "twice.cpp"
    source.write_text(SOURCE)
    environment = {
        **os.environ,
        "PATH": "/nonexistent",
        "CXX": "",
        "DRIVETRAIN_CACHE": str(tmp_path / "c"),
        "HOME": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", program, str(source)], env=environment, check=True)
