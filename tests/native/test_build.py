"""The compiled libraries: what they may depend on, how they load, and the build that makes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import dsa_fast
from dsa_fast.ops import _load
from tests.fresh import run_fresh
from tests.native import cpp_tests

SOURCE = Path(__file__).resolve().parents[2]
PACKAGE = Path(dsa_fast.__file__).parent
LIBRARIES = sorted(PACKAGE.glob("*.so"))

needs_source = pytest.mark.skipif(not (SOURCE / "csrc").exists(), reason="the sources are not here")


def environment_without_steering() -> dict[str, str]:
    """The environment without the variables that steer a build."""
    steering = ("FORCE_CUDA", "DSA_FAST_CPU_ONLY", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH")
    return {name: value for name, value in os.environ.items() if name not in steering}


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with the environment variables that steer a build set to just these."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment_without_steering(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def require_tool(*names: str) -> str:
    """The first of the programs that is there, in this environment or on PATH; skips where none is."""
    found = cpp_tests.find_tool(*names)
    if found:
        return found
    pytest.skip(f"{' or '.join(names)} is not there")


def output(result: subprocess.CompletedProcess[str]) -> str:
    return f"{result.stdout[-5000:]}\n{(result.stderr or '')[-5000:]}"


# ---- the libraries -------------------------------------------------------------------------------------------------


def test_libraries_are_built() -> None:
    names = [library.name for library in LIBRARIES]
    note = json.loads((PACKAGE / "_build.json").read_text())
    assert "_C.abi3.so" in names
    assert ("_C_cuda.abi3.so" in names) == note["cuda"]
    assert note["why"]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_use_only_the_stable_abi(library: Path) -> None:
    elf = pytest.importorskip("elftools.elf.elffile")
    with library.open("rb") as file:
        sections = elf.ELFFile(file)
        symbols = list(sections.get_section_by_name(".dynsym").iter_symbols())
        needed = [tag.needed for tag in sections.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")]
    undefined = [symbol.name for symbol in symbols if symbol.entry.st_shndx == "SHN_UNDEF" and symbol.name]
    defined = [symbol.name for symbol in symbols if symbol.entry.st_shndx != "SHN_UNDEF"]
    shim = [name for name in undefined if re.match(r"(aoti_)?torch_", name)]
    assert "torch_call_dispatcher" in shim
    # PyTorch's C++ names are mangled with their namespaces: 2at, 3c10, 5torch.
    assert [name for name in undefined if re.match(r"_Z.*(2at|3c10|5torch)", name)] == []
    assert [name for name in undefined + defined if re.match(r"_?Py", name)] == []
    # All else comes from the C and C++ run-time libraries, whose names have versions, or is weak.
    assert not [name for name in needed if "python" in name]
    assert not [name for name in needed if name.startswith(("libcudart", "libc10_cuda"))]
    assert not [name for name in defined if name.startswith("cuda")]  # PyTorch's own run-time must not bind to ours
    if library.name == "_C.abi3.so":
        assert not [name for name in needed if "cuda" in name]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_abi3audit(library: Path) -> None:
    tool = require_tool("abi3audit")
    result = run(tool, "--strict", "--summary", "--assume-minimum-abi3", "3.10", library)
    assert result.returncode == 0, output(result)
    assert "0 ABI version mismatches and 0 ABI violations found" in " ".join(output(result).split())


# ---- loading -------------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'dsa_fast' has no attribute 'wrap'"):
        dsa_fast.wrap  # noqa: B018
    assert {"warp", "atlas", "models", "__version__"} <= set(dir(dsa_fast))


def test_version_is_the_distribution_s() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version("dsa-fast") == dsa_fast.__version__
    except PackageNotFoundError:
        pytest.skip("dsa-fast is not installed")


def test_a_build_without_cuda_says_why(tmp_path: Path) -> None:
    note = tmp_path / "_build.json"
    note.write_text(json.dumps({"cuda": False, "why": "no CUDA toolkit was found: /opt/cuda has no bin/nvcc"}))
    assert _load.load_cuda(tmp_path / "none.so", note) == (
        "dsa_fast was built without CUDA, because no CUDA toolkit was found: /opt/cuda has no bin/nvcc"
    )


def test_a_library_for_another_cuda_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    note, library = tmp_path / "_build.json", tmp_path / "_C_cuda.abi3.so"
    library.write_text("not a library")
    note.write_text(json.dumps({"cuda": True, "why": "", "toolkit": "13.0"}))
    assert _load.load_cuda(library, note) == (
        f"{library} was built with CUDA 13.0, but the installed PyTorch {torch.__version__} is for CUDA 12.6: the "
        "major versions must be equal, so build dsa_fast again"
    )
    note.write_text(json.dumps({"cuda": True, "why": "", "toolkit": "12.1"}))
    reason = _load.load_cuda(library, note)
    assert reason is not None and "does not load" in reason


@pytest.mark.parametrize("cuda", [None, "13.2"])
def test_a_cuda_library_that_does_not_load_says_why(
    tmp_path: Path, cuda: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    note, library = tmp_path / "_build.json", tmp_path / "_C_cuda.abi3.so"
    note.write_text(json.dumps({"cuda": True, "why": ""}))
    assert _load.load_cuda(library, note) == f"{library} is missing"
    library.write_text("not a library")
    reason = _load.load_cuda(library, note)
    if cuda is None:
        assert reason == f"the installed PyTorch {torch.__version__} has no CUDA"
    else:
        assert reason is not None and reason.startswith(f"{library} does not load into PyTorch {torch.__version__}: ")
        assert "invalid ELF header" in reason or "file too short" in reason


def test_require_cuda_raises_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "cuda_missing", None)
    _load.require_cuda()
    monkeypatch.setattr(_load, "cuda_missing", "the reason")
    with pytest.raises(RuntimeError, match="^dsa_fast has no CUDA kernels here: the reason$"):
        _load.require_cuda()


def test_a_library_that_does_not_load_says_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "_C.abi3.so").write_text("not a library")
    with pytest.raises(ImportError, match=r"does not load into PyTorch .* \(2.11 or newer is needed\)"):
        _load.load_cpu(tmp_path / "_C.abi3.so")


def install(site: Path, version: str) -> Path:
    """Pretends that `pip install` put this package's libraries there, as this version."""
    (site / f"dsa_fast-{version}.dist-info").mkdir(parents=True)
    (site / f"dsa_fast-{version}.dist-info" / "METADATA").write_text(f"Name: dsa-fast\nVersion: {version}\n")
    (site / "dsa_fast").mkdir()
    for name in ("_C.abi3.so", "_C_cuda.abi3.so", "_build.json"):
        if (_load.folder / name).exists():
            shutil.copy(_load.folder / name, site / "dsa_fast" / name)
    return site


def in_sources(checkout: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Imports the package in a copy of its sources, without libraries, and with what `site` has."""
    checkout.mkdir()
    shutil.copytree(PACKAGE, checkout / "dsa_fast", ignore=shutil.ignore_patterns("*.so", "_build.json", "__pycache__"))
    torch_folder = Path(torch.__file__).parents[1]
    places = [str(checkout), str(site)]
    code = f"""
import importlib.metadata, sys
paths = [each for each in sys.path if "site-packages" not in each]
sys.path[:] = [*paths, *{places}, {str(torch_folder)!r}]
every = importlib.metadata.distributions
importlib.metadata.distributions = lambda **how: every(**how, path={places})
import dsa_fast
from dsa_fast.ops import _load
print(dsa_fast.__file__, _load.folder, dsa_fast.warp.__name__)
"""
    return run_fresh(code, cwd=checkout)


def test_the_source_folder_finds_the_libraries_of_an_installed_copy(tmp_path: Path) -> None:
    site = install(tmp_path / "site", dsa_fast.__version__)
    done = in_sources(tmp_path / "checkout", site)
    expected = f"{tmp_path}/checkout/dsa_fast/__init__.py {site}/dsa_fast warp"
    assert done.stdout.strip() == expected, output(done)


def test_the_source_folder_names_an_installed_copy_of_another_version(tmp_path: Path) -> None:
    done = in_sources(tmp_path / "checkout", install(tmp_path / "site", "0.0.1"))
    error = done.stderr.splitlines()[-1]
    assert "is not built" in error and "Another version is installed, 0.0.1 in" in error and "leave " in error


def test_sources_alone_say_how_to_build_them(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    error = in_sources(tmp_path / "checkout", tmp_path / "site").stderr.splitlines()[-1]
    assert error.endswith("is missing, and no copy is installed. Build it with `pip install .`")


def test_cuda_library_is_loaded_where_a_gpu_must_be() -> None:
    if os.environ.get("DSA_FAST_REQUIRE_CUDA") != "1":
        pytest.skip("DSA_FAST_REQUIRE_CUDA is not 1")
    assert _load.cuda_missing is None


# ---- building ------------------------------------------------------------------------------------------------------


@needs_source
def test_kernels_without_pytorch(tmp_path: Path) -> None:
    """The C++ tests: the CPU kernels and the CUDA kernels, run on the CPU, against a loop; under the sanitizers.

    tests/deploy/test_runtime.py builds the library of kernels without them, and runs the other C++ tests.
    """
    _, ctest = require_tool("cmake"), require_tool("ctest")
    require_tool("c++", "g++", "clang++")
    folder, result = cpp_tests.build("kernels", tmp_path)
    assert result.returncode == 0, output(result)
    assert "the runtime is left out: DSA_FAST_RUNTIME=OFF" in result.stdout
    result = run(ctest, "--test-dir", folder, "-L", "kernels", "--output-on-failure", "--parallel", "2")
    assert result.returncode == 0 and "100% tests passed" in result.stdout, output(result)


@pytest.fixture
def source_copy(tmp_path: Path) -> Path:
    """The sources of a small distribution: all that is compiled, and of the Python only what loads it."""
    copy = tmp_path / "source"
    shutil.copytree(SOURCE / "csrc", copy / "csrc")
    shutil.copytree(PACKAGE / "ops", copy / "dsa_fast" / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(SOURCE / name, copy / name)
    for name in ("__init__.py", "py.typed", "version.py"):
        shutil.copy(PACKAGE / name, copy / "dsa_fast" / name)
    (copy / "README.md").write_text("readme\n")
    return copy


@needs_source
def test_wheel_without_cuda(source_copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    require_tool("c++", "g++", "clang++")
    stale = source_copy / "build" / f"lib.linux-x86_64-cpython-{sys.version_info.major}{sys.version_info.minor}"
    stale.mkdir(parents=True)
    (stale / "dsa_fast").mkdir()
    (stale / "dsa_fast" / "_C_cuda.abi3.so").write_text("left by an earlier build")
    result = run(
        *(sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", tmp_path / "wheels"),
        cwd=source_copy,
        DSA_FAST_CPU_ONLY="1",
        CCACHE_BASEDIR=str(source_copy),  # ccache, if it is there, knows the sources from the builds before
    )
    assert result.returncode == 0, output(result)
    assert "dsa_fast: building for the CPU only: DSA_FAST_CPU_ONLY was set" in result.stdout
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name.startswith(f"dsa_fast-{dsa_fast.__version__}-cp310-abi3-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        note = json.loads(archive.read("dsa_fast/_build.json"))
        archive.extractall(tmp_path / "installed")
    assert "dsa_fast/_C.abi3.so" in names and "dsa_fast/py.typed" in names
    assert "dsa_fast/_C_cuda.abi3.so" not in names
    assert note["cuda"] is False and note["why"] == "DSA_FAST_CPU_ONLY was set"
    use = (
        "import torch, dsa_fast; from dsa_fast.ops import _load; print(_load.cuda_missing); "
        "img = torch.ones(1, 1, 1, 1); iuv = torch.ones(1, 3, 1, 1, dtype=torch.uint8); "
        "print(int(dsa_fast.warp(img, iuv).sum()))"
    )
    result = run(sys.executable, "-c", use, cwd=tmp_path / "installed")
    assert result.stdout.splitlines() == [
        "dsa_fast was built without CUDA, because DSA_FAST_CPU_ONLY was set",
        "1",
    ], output(result)


@needs_source
def test_force_cuda_fails_where_it_cannot_be(source_copy: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")

    def version(**steering: str) -> subprocess.CompletedProcess[str]:
        code = "import runpy, sys; sys.argv[0] = 'setup.py'; runpy.run_path('setup.py', run_name='__main__')"
        return run_fresh(code, "--version", cwd=source_copy, environment={**environment_without_steering(), **steering})

    result = version(FORCE_CUDA="1", CUDA_HOME=str(tmp_path / "nowhere"))
    assert result.returncode != 0
    assert "FORCE_CUDA is set, but the CUDA library cannot be built: " in result.stderr
    if torch.version.cuda is None:
        assert "has no CUDA" in result.stderr
    else:
        assert f"no CUDA toolkit was found: {tmp_path / 'nowhere'} has no bin/nvcc" in result.stderr
    result = version(FORCE_CUDA="1", DSA_FAST_CPU_ONLY="1")
    assert result.returncode != 0 and "contradict each other" in result.stderr
