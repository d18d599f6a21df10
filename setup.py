"""Builds the two compiled libraries; everything else about the package is in pyproject.toml.

``dsa_fast/_C.abi3.so`` holds the operators' schemas and CPU kernels, ``dsa_fast/_C_cuda.abi3.so`` the CUDA kernels.
Both use PyTorch's stable ABI and no Python symbol, so that one wheel serves every PyTorch >= 2.11 and Python >= 3.10.

Environment variables:
    FORCE_CUDA=1            fail, saying why, where the CUDA library cannot be built
    DSA_FAST_CPU_ONLY=1     leave the CUDA library out
    TORCH_CUDA_ARCH_LIST    GPU architectures, such as "9.0" or "8.0;9.0+PTX"; has a default
    CUDA_HOME, CUDA_PATH    where the CUDA toolkit is, if nvcc on PATH is not the one
    MAX_JOBS                compiler processes at once

Without the first two, the CUDA library is built exactly when PyTorch was built for CUDA and a toolkit is found. A
build host needs no GPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from setuptools import Extension, setup
from torch.utils import cpp_extension

STABLE_ABI = "0x020b000000000000"  # PyTorch 2.11
LIMITED_API = "0x030A0000"  # Python 3.10
CPU_LIBRARY, CUDA_LIBRARY = "dsa_fast._C", "dsa_fast._C_cuda"
# One of each generation that the toolkit knows: its code serves all later ones of the same major version (12.0 serves
# 12.1, 10.0 serves 10.3). The last one also gets PTX, which serves only later ones: that of 12.0 does not serve 11.0.
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "11.0", "12.0")


def switch(name: str) -> bool:
    """Reads an on/off environment variable."""
    return os.environ.get(name, "").strip().lower() not in ("", "0", "off", "no", "false")


def sources(pattern: str) -> list[str]:
    """Files below the working folder, in an order that is the same everywhere."""
    return sorted(map(str, Path().glob(pattern)))


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that can compile."""

    home: Path
    version: str  # such as "13.0"
    archs: tuple[str, ...]  # known to its nvcc, such as "9.0"
    libraries: Path  # the folder of libcudart_static.a


def find_toolkit() -> Toolkit | str:
    """Finds a whole CUDA toolkit, or says why there is none."""
    candidates = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if not candidates:
        nvcc = shutil.which("nvcc")
        if nvcc:
            candidates += [str(Path(nvcc).parents[1]), str(Path(nvcc).resolve().parents[1])]
        candidates.append("/usr/local/cuda")
    reasons = []
    for home in map(Path, dict.fromkeys(candidates)):
        nvcc_path = home / "bin" / "nvcc"
        if not nvcc_path.exists():
            reasons.append(f"{home} has no bin/nvcc")
            continue
        if not (home / "include" / "cuda_runtime.h").exists():
            reasons.append(f"{home} has no include/cuda_runtime.h")
            continue
        static = [home / folder for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")]
        static = [folder for folder in static if (folder / "libcudart_static.a").exists()]
        if not static:
            reasons.append(f"{home} has no libcudart_static.a")
            continue
        try:
            version = subprocess.run([nvcc_path, "--version"], capture_output=True, text=True, check=True).stdout
            archs = subprocess.run([nvcc_path, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            reasons.append(f"{nvcc_path} does not run: {error}")
            continue
        release = re.search(r"release (\d+\.\d+)", version)
        if release is None:
            reasons.append(f"{nvcc_path} does not tell its version")
            continue
        known = tuple(f"{number[:-1]}.{number[-1]}" for number in re.findall(r"compute_(\d+)", archs))
        return Toolkit(home, release.group(1), known, static[0])
    return "no CUDA toolkit was found: " + "; ".join(reasons)


def choose_cuda() -> tuple[Toolkit | None, str]:
    """Decides whether the CUDA library is built, and says why."""
    if switch("DSA_FAST_CPU_ONLY"):
        if switch("FORCE_CUDA"):
            raise SystemExit("dsa_fast: FORCE_CUDA and DSA_FAST_CPU_ONLY contradict each other; unset one")
        return None, "DSA_FAST_CPU_ONLY was set"
    if torch.version.cuda is None:
        return None, f"the build's PyTorch {torch.__version__} has no CUDA"
    toolkit = find_toolkit()
    if isinstance(toolkit, str):
        return None, toolkit
    if toolkit.version.split(".")[0] != torch.version.cuda.split(".")[0]:
        return None, (
            f"the CUDA toolkit {toolkit.version} in {toolkit.home} does not fit PyTorch {torch.__version__}, which "
            f"was built for CUDA {torch.version.cuda}: the major versions must be equal"
        )
    return toolkit, (
        f"PyTorch {torch.__version__} is for CUDA {torch.version.cuda}, and toolkit {toolkit.version} "
        f"is in {toolkit.home}"
    )


toolkit, why = choose_cuda()
if toolkit is None and switch("FORCE_CUDA"):
    raise SystemExit(f"dsa_fast: FORCE_CUDA is set, but the CUDA library cannot be built: {why}")
if toolkit is not None:
    cpp_extension.CUDA_HOME = str(toolkit.home)  # its own guess takes a wrapper script of nvcc for a toolkit
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        archs = [arch for arch in DEFAULT_ARCHS if arch in toolkit.archs]
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(archs) + "+PTX"

DEFINES = [("TORCH_TARGET_VERSION", STABLE_ABI), ("Py_LIMITED_API", LIMITED_API)]
# Nothing but -O3: the wheel runs on any machine of its architecture. No contraction: sums round as they are written.
# No debug information, which Python's own flags ask for: it takes a quarter of the time, and linking strips it.
CXX_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"]
# The CUDA runtime inside the library stays its own: PyTorch brings another, of any version.
LINK_FLAGS = ["-Wl,--exclude-libs,ALL", "-Wl,-O1", "-s"] if sys.platform == "linux" else []


def extensions() -> list[Extension]:
    """The libraries to build."""
    found = [
        cpp_extension.CppExtension(
            CPU_LIBRARY,
            [*sources("csrc/cpu/*.cpp"), *(f"csrc/torch/{name}.cpp" for name in ("ops", "cpu", "parallel"))],
            define_macros=DEFINES,
            extra_compile_args={"cxx": CXX_FLAGS},
            extra_link_args=LINK_FLAGS,
            py_limited_api=True,
        )
    ]
    if toolkit is not None:
        cuda = cpp_extension.CUDAExtension(
            CUDA_LIBRARY,
            [*sources("csrc/cuda/*.cu"), "csrc/torch/cuda.cpp"],
            define_macros=[*DEFINES, ("USE_CUDA", None)],
            extra_compile_args={
                "cxx": CXX_FLAGS,
                "nvcc": ["-O3", "-fmad=false", "-Xcompiler", "-fvisibility=hidden", "--threads", "2"],
            },
            extra_link_args=LINK_FLAGS,
            py_limited_api=True,
        )
        # The CUDA runtime is linked in, so that the library depends on no certain version of it.
        cuda.libraries = [name for name in cuda.libraries if name not in ("cudart", "c10_cuda")]
        cuda.libraries += ["cudart_static", "rt", "dl", "pthread"]
        cuda.library_dirs.append(str(toolkit.libraries))
        found.append(cuda)
    return found


class BuildLibraries(cpp_extension.BuildExtension):
    """Builds the libraries and leaves a note of what was chosen, which a CUDA call quotes where it cannot work."""

    def run(self) -> None:
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "") if toolkit else ""
        chosen = f"with CUDA for {archs}" if toolkit else "for the CPU only"
        print(f"dsa_fast: building {chosen}: {why}", flush=True)
        try:
            super().run()
        except Exception as error:
            if toolkit is not None:
                error.args = (f"{error}\ndsa_fast: DSA_FAST_CPU_ONLY=1 builds without CUDA", *error.args[1:])
            raise
        folder = Path(self.get_ext_fullpath(CPU_LIBRARY)).parent
        if toolkit is None:  # a library left by an earlier build is not this build's
            for stale in folder.glob("_C_cuda.*"):
                stale.unlink()
        note = {
            "cuda": toolkit is not None,
            "why": why,
            "torch": torch.__version__,
            "toolkit": toolkit.version if toolkit else None,
            "archs": archs or None,
        }
        (folder / "_build.json").write_text(json.dumps(note, indent=2) + "\n")

    def get_export_symbols(self, ext: Any) -> list[str]:
        """The libraries are loaded by PyTorch, not imported: there is no PyInit function to export."""
        return []


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
