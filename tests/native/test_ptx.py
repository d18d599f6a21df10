"""The CUDA kernels as nvcc compiles them, run on the CPU: their PTX as C++ (tests/cpp/ptx). Needs nvcc but no GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from tests.native import cpp_tests
from tests.native import kernel_resources as resources

PTX = resources.SOURCE / "tests" / "cpp" / "ptx"
ARCHS = ("75", "90")
MUTATIONS = json.loads((PTX / "mutations.json").read_text()) if PTX.exists() else []

pytestmark = [
    pytest.mark.skipif(not resources.sources(), reason="the CUDA sources are not beside the tests"),
    pytest.mark.xdist_group("ptx"),
]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def output(result: subprocess.CompletedProcess[str]) -> str:
    return result.stdout[-5000:]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiles everything; the folder of the programs, such as ptx_warp_75."""
    if resources.find_nvcc() is None or cpp_tests.find_tool("cmake") is None or cpp_tests.find_tool("c++") is None:
        pytest.skip("nvcc (on PATH or in CUDA_HOME), cmake or c++ is not there: the compiled kernels do not run")
    folder, result = cpp_tests.build("ptx", tmp_path_factory.mktemp("ptx"))
    assert result.returncode == 0, output(result)
    return folder / "tests" / "cpp" / "ptx"


def test_compiled_kernels(programs: Path) -> None:
    """Each C++ test, with the kernels of each architecture. Each compiled kernel runs at least once.

    Except the warp's blocks of 512 threads: they are for more images than the tests have.
    """
    names = [
        f"ptx_{name}_{arch}" for name in ("machine", *(file.stem for file in resources.sources())) for arch in ARCHS
    ]
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(names, pool.map(lambda name: run(programs / name), names), strict=True))
    for name, result in results.items():
        assert result.returncode == 0, f"{name}: {output(result)}"
        assert re.search(r"[1-9]\d* checks, 0 failures", result.stdout), output(result)
        assert re.search(r"PTX: [1-9]\d* kernels, [1-9]\d* of them ran", result.stdout), f"{name}: {output(result)}"
        idle = re.findall(r"PTX: never ran: (.*)", result.stdout)
        assert all(re.search(r"::warp_(last|mean)<512, ", kernel) for kernel in idle), f"{name}: {idle}"
        print(name, *result.stdout.splitlines(), sep="\n  ")
    result = run(programs / "ptx_densepose_90", "bands", DSA_FAST_PTX_PROCESSORS="4")
    assert result.returncode == 0, output(result)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation["name"])
def test_mutations_are_caught(programs: Path, mutation: dict[str, str]) -> None:
    for arch in ARCHS:
        program = programs / f"ptx_{mutation['source']}_{arch}"
        result = run(program, DSA_FAST_PTX_MUTATION=mutation["name"], DSA_FAST_STOP_AT_FAILURE="1")
        assert result.returncode != 0, f"it is not caught: {output(result)}"
        assert re.search(mutation["caught"], result.stdout), output(result)


# ---- the translation -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def translate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("translate", PTX / "translate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["translate"] = module
    spec.loader.exec_module(module)
    return module


HEAD = """
.version 9.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 pool[];
.visible .entry one(
\t.param .align 8 .b8 one_param_0[16],
\t.param .u64 one_param_1
)
.maxntid 64, 2, 1
{
\t.reg .pred \t%p<3>;
\t.reg .b32 \t%r<4>;
\t.reg .b64 \t%rd<3>;
\t.shared .align 4 .b8 kept[12];
"""


def body_of(translate: ModuleType, body: str) -> str:
    (kernel,) = translate.read_kernels(f"{HEAD}{body}\n\tret;\n}}\n")
    assert kernel.params == {"one_param_0": 16, "one_param_1": 8}
    assert (kernel.max_threads, kernel.shared_bytes) == (128, 12)
    return "\n".join(translate.Writer(kernel).lines(0))


@pytest.mark.parametrize(
    ("ptx", "cpp"),
    [
        ("add.s32 %r1, %r2, -1;", "r.r1 = to_register<uint32_t, int32_t>(add<int32_t>(int32_t(r.r2), "),
        ("@!%p1 bra $L__BB0_2;\n$L__BB0_2:", "if (!r.p1) { goto label_L__BB0_2; }"),
        ("mov.u32 %r1, pool;", "t.launch.dynamic_offset"),
        ("mov.u32 %r1, kept;", "uint32_t(0)"),
        ("ld.shared.v2.u32 {%r1, %r2}, [%r3+8];", "load<uint32_t, 2, Space::kShared>(t, uint64_t(uint32_t(r.r3)"),
        ("ld.global.nc.L1::no_allocate.b32 %r1, [%rd1];", "load_constant<uint32_t, 1, Space::kGlobal>"),
        ("{.reg .pred p; setp.lt.u32 p, %r1, 3; @p red.shared.max.s32 [%r2], 9;}", "if (r.p_scope1_) { (void)(atomic<"),
        ("bar.sync 0;", "return t.wait(1); resume_1:;"),
        ("setp.ltu.f32 %p1, %r1, 0f3F800000;", "compare_ltu<float>(from_bits<float>(r.r1), "),
        ("ld.param.u64 %rd1, [one_param_0+8];", "Space::kParam>(t, (uint64_t(t.argument_address(0)) + "),
    ],
)  # fmt: skip
def test_translation(translate: ModuleType, ptx: str, cpp: str) -> None:
    assert cpp in body_of(translate, ptx)


@pytest.mark.parametrize(
    ("ptx", "message"),
    [
        ("tex.2d.v4.f32.f32 {%r1}, [a, {%r1}];", "tex.2d"),
        ("add.sat.s32 %r1, %r2, %r3;", ".sat is not known"),
        ("shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;", "shfl"),
        ("bar.sync 1;", "only barrier 0"),
        ("ld.param.u64 %rd1, [one_param_0+12];", "outside its parameter"),
        ("mov.u32 %r1, other;", "no symbol other"),
        ("mov.u64 %rd1, %r1;", "has 32 bits, u64 is read"),
        ("add.s32 %r1, %x2, 1;", "no register %x"),
        (".callprototype nothing;", "callprototype"),
    ],
)
def test_what_is_not_known_is_refused(translate: ModuleType, ptx: str, message: str) -> None:
    with pytest.raises(translate.PtxError, match=re.escape(message)):
        body_of(translate, ptx)


def test_a_mutation_changes_matching_kernels_only(translate: ModuleType) -> None:
    text = f"{HEAD}\tbar.sync 0;\n\tbar.sync 0;\n\tret;\n}}\n"
    both = text + text.replace("one", "two")
    dropped = translate.Mutation("drop", "file", "two", r"bar\.sync 0;", "", 1).apply(both)
    assert dropped is not None and dropped.count("bar.sync") == 3 and dropped.startswith(text)
    assert translate.Mutation("drop", "file", "three", r"bar\.sync 0;", "", None).apply(both) is None
