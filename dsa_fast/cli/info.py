"""`dsa-fast info`."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dsa_fast.terminal import say
from dsa_fast.version import __version__

_OPTIONAL = {
    "onnxruntime": "run ONNX files",
    "openvino": "run ONNX files faster on a CPU",
    "tensorrt": "build and run TensorRT engines",
    "tensorrt-rtx": "build and run TensorRT-RTX engines",
    "faiss-cpu": "search",
    "pyarrow": "read and write .parquet",
    "av": "embed crops of videos",
    "timm": "use timm's backbones",
    "h5py": "read CUHK03 and MATLAB files",
}
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")


def info() -> None:
    """Show the version, the build, what this machine offers, and the folders of caches. Include it in a bug report.

    Examples:
        dsa-fast info
        dsa-fast info > info.txt
    """
    import torch

    from dsa_fast.device import usable_cores
    from dsa_fast.ops import _load

    here = Path(__file__).resolve().parents[1]
    libraries = "" if _load.folder == here else f"; its libraries are those of {_load.folder}"
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    model, flags = _processor()
    rows = {
        "dsa_fast": f"{__version__} in {here}{libraries}",
        "Python": f"{platform.python_version()}, {_system()}",
        "PyTorch": f"{torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPUs'}",
        "CUDA kernels": "loaded" if _load.cuda_missing is None else f"none: {_load.cuda_missing}",
        "GPUs": ", ".join(gpus) or "none found by PyTorch",
        "processor": f"{model}, {usable_cores()} cores for this process",
        "instructions": ", ".join(name for name in _INSTRUCTIONS if name in flags) or "unknown",
        **{name: _version_or_hint(name, purpose) for name, purpose in _OPTIONAL.items()},
        "weights": f"{torch.hub.get_dir()}/checkpoints: downloaded by PyTorch and torchvision",
        "stores": ".dsa_fast in each data set's folder: training images, decoded (--data.cache)",
    }
    width = max(map(len, rows))
    for name, text in rows.items():
        say(f"{name:{width}}  {text}")


def _system() -> str:
    libc = " ".join(platform.libc_ver()).strip()  # platform.platform() would start `uname`
    return ", ".join(filter(None, (f"{platform.system()} {platform.release()} {platform.machine()}", libc)))


def _version_or_hint(package: str, purpose: str) -> str:
    for name in (package, f"{package.removesuffix('-cpu')}-gpu"):  # onnxruntime-gpu, faiss-gpu
        try:
            return f"{version(name)}{'' if name == package else f' ({name})'}"
        except PackageNotFoundError:
            continue
    return f"not installed: pip install {package} to {purpose}"


def _processor() -> tuple[str, set[str]]:
    """Returns the processor's name and the instruction sets that Linux lists."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.machine() or os.uname().machine, set()
    values = dict(reversed([line.split(":", 1) for line in lines if ":" in line]))
    values = {name.strip(): value.strip() for name, value in values.items()}
    return values.get("model name", platform.machine()), set(values.get("flags", values.get("Features", "")).split())
