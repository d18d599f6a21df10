"""Builds the C++ tests of the kernels with CMake: `python3 -m tests.native.cpp_tests FOLDER` builds all in advance.

Tests build them in a temporary folder, or go on with what is in the folder that DSA_FAST_CPP_TESTS names.
Needs nothing but Python's standard library, CMake and a compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.native.kernel_resources import SOURCE, find_nvcc

#: The options of CMake and the target, by the name of the tests. "kernels" runs under the sanitizers.
OPTIONS = {
    "kernels": (["-DDSA_FAST_CUDA=OFF", "-DDSA_FAST_RUNTIME=OFF"], "kernel_tests"),
    "ptx": ([f"-DDSA_FAST_{what}=OFF" for what in ("CUDA", "RUNTIME", "SANITIZE")] + ["-DDSA_FAST_PTX=ON"], "ptx"),
}


def find_tool(*names: str) -> str | None:
    """The first of the programs that is there, in this environment or on PATH."""
    found = (shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name) for name in names)
    return next(filter(None, found), None)


def build(name: str, folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Builds the tests in a subfolder of `folder`, or of the one that DSA_FAST_CPP_TESTS names.

    Returns the folder of the build and the last command, with what all have said.
    """
    folder = Path(os.environ.get("DSA_FAST_CPP_TESTS") or folder) / name
    options, target = OPTIONS[name]
    cmake = find_tool("cmake")
    assert cmake is not None
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    said = ""
    for command in (
        [cmake, "-S", str(SOURCE), "-B", str(folder), *generator, *options, python],
        [cmake, "--build", str(folder), "--target", target, "--parallel", "2"],
    ):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
        done.stdout = said = said + done.stdout
        if done.returncode != 0:
            break
    return folder, done


if __name__ == "__main__":
    for each in OPTIONS if find_nvcc() else ("kernels",):
        _, result = build(each, Path(sys.argv[1]))
        print(result.stdout)
        if result.returncode != 0:
            sys.exit(f"the C++ tests {each} do not compile")
