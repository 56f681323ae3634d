"""Builds csrc with CMake during `pip install`; everything else is in pyproject.toml.

No C++ compiler: the install still succeeds, Triton and the references serve, and `python -m amt.kernels` says why.
A compiler or nvcc that is there but fails: the install fails, with the toolchain's own message.
AMT_CUDA=off leaves nvcc out, AMT_CUDA=on fails without it; MAX_JOBS limits the parallel compilations.
AMT_CUTLASS=on builds CUTLASS's FP8 products, from the wheel nvidia-cutlass or from AMT_CUTLASS_DIR.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
            print("amt: no C++ compiler found, csrc is not built; install g++ and repeat for the native kernels")
            return
        output = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        build = ROOT / "build" / f"csrc-{sys.implementation.cache_tag}"
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        configure = ["cmake", "-S", ROOT, "-B", build, *generator, "-DCMAKE_BUILD_TYPE=Release"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}"]
        configure += [f"-DAMT_CUDA={os.environ.get('AMT_CUDA', 'auto')}"]
        configure += [f"-DAMT_CUTLASS={os.environ.get('AMT_CUTLASS', 'off')}"]
        configure += [f"-DAMT_CUTLASS_DIR={os.environ.get('AMT_CUTLASS_DIR', '')}"]
        # A build environment that pip made earlier is gone by now: nothing found in it may be remembered.
        (build / "CMakeCache.txt").unlink(missing_ok=True)
        subprocess.run(configure, check=True)
        subprocess.run(
            ["cmake", "--build", build, "--parallel", os.environ.get("MAX_JOBS", str(os.cpu_count()))], check=True
        )

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"  # loaded by torch.ops.load_library, not imported


# optional: setuptools then copies the library into the source tree only where it was built. A failing build still ends the
# installation, because setuptools forgives its own compiler errors only, and CMake's is another.
setup(ext_modules=[Extension("amt._native", sources=[], optional=True)], cmdclass={"build_ext": CMakeBuild})
