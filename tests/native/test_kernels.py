"""The CUDA kernels' registers, memory and instructions, as the compiler tells them; needs nvcc but no GPU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.native import kernel_instructions as instructions
from tests.native import kernel_resources as resources
from tests.native.kernel_instructions import Code, Loop
from tests.native.kernel_resources import Usage

pytestmark = pytest.mark.xdist_group("kernels")

LOG = """
ptxas info    : Compiling entry function '_Z1fPf' for 'sm_90'
ptxas info    : Function properties for _Z1fPf
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 41 registers, used 1 barriers, 2048 bytes smem
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Usage], Path]:
    """Every kernel for every architecture, and the folder of the cubins.

    DSA_FAST_CUDA_LIBRARY names a library of these sources, built for every architecture: else they are compiled here.
    """
    nvcc, cuobjdump = resources.find_nvcc(), instructions.find_cuobjdump()
    if nvcc is None:
        pytest.skip("nvcc (on PATH or in CUDA_HOME) or c++filt is not there: the kernels' registers are not checked")
    folder = tmp_path_factory.mktemp("kernels")
    library = os.environ.get("DSA_FAST_CUDA_LIBRARY")
    if library and cuobjdump is not None:
        usages = resources.measure_library(cuobjdump, Path(library), folder)
        return [usage for usage in usages if usage.arch in resources.ARCHS], folder
    return resources.measure(nvcc, folder), folder


def test_kernels_stay_within_the_table(compiled: tuple[list[Usage], Path]) -> None:
    usages, _ = compiled
    assert {usage.file for usage in usages} == {file.name for file in resources.sources()}
    assert {usage.arch for usage in usages} == set(resources.ARCHS)
    found = resources.complaints(usages, json.loads(resources.TABLE.read_text()))
    assert not found, "\n".join([*found, "If this is meant: python tests/native/kernel_resources.py --write"])


def test_loops_stay_within_the_table(compiled: tuple[list[Usage], Path]) -> None:
    _, folder = compiled
    nvcc, cuobjdump = resources.find_nvcc(), instructions.find_cuobjdump()
    if nvcc is None or cuobjdump is None:
        pytest.skip("cuobjdump (of the toolkit or of Triton) is not there: the kernels' instructions are not counted")
    table = json.loads(instructions.TABLE.read_text())
    if table["nvcc"] != instructions.release(nvcc):
        pytest.skip(
            f"the instructions were counted with nvcc {table['nvcc']}, and this is {instructions.release(nvcc)}"
        )
    found = instructions.complaints(instructions.measure(cuobjdump, folder), table["kernels"])
    assert not found, "\n".join([*found, "If this is meant: python tests/native/kernel_instructions.py --write"])


def test_every_source_is_in_the_tables() -> None:
    if not resources.sources():
        pytest.skip("the CUDA sources are not beside the tests")
    names = {file.name for file in resources.sources()}
    assert set(json.loads(resources.TABLE.read_text())) == names
    assert set(json.loads(instructions.TABLE.read_text())["kernels"]) == names


def test_flags_are_those_of_the_build() -> None:
    setup = resources.SOURCE / "setup.py"
    if not setup.exists():
        pytest.skip("setup.py is not beside the tests")
    assert '"nvcc": [' + ", ".join(f'"{flag}"' for flag in resources.FLAGS) in setup.read_text()


def test_a_library_is_read_as_the_compiler_tells() -> None:
    name = "_ZN8dsa_fast39_GLOBAL__N__6eb6f31e_7_crop_cu_2a00261c11copy_texelsIffEEvf"
    text = f" Common:\n  GLOBAL:0\n Function {name}:\n  REG:41 STACK:16 SHARED:3072 LOCAL:0 CONSTANT[0]:984\n"
    assert resources.parse_library(text, "90") == [Usage("crop.cu", name, "90", 41, 2048, 16, 0)]
    assert resources.parse_library(text, "80") == [Usage("crop.cu", name, "80", 41, 3072, 16, 0)]
    for unknown in ("Fatbin elf code", text.replace("_cu_", "_"), text.replace("REG", "R")):
        with pytest.raises(RuntimeError, match="sm_90"):
            resources.parse_library(unknown, "90")


def test_spills_and_greed_are_complained_of() -> None:
    (usage,) = resources.parse(LOG, "a.cu", "90")
    assert usage == Usage("a.cu", "_Z1fPf", "90", registers=41, shared=2048, stack=16, spilled=12)
    assert [line.split(": ", 1)[1] for line in resources.complaints([usage], resources.table_of([usage]))] == [
        "12 bytes are spilled",
        "16 bytes of local memory",
    ]
    good = Usage("a.cu", "f", "90", registers=41, shared=2048, stack=0, spilled=0)
    assert resources.table_of([good]) == {"a.cu": {"f": {"registers": 48, "shared": 2048}}}
    assert resources.complaints([good], resources.table_of([good])) == []
    for limits in ({"registers": 40, "shared": 2048}, {"registers": 48, "shared": 2047}):
        assert len(resources.complaints([good], {"a.cu": {"f": limits}})) == 1
    assert len(resources.complaints([good], {})) == 1
    assert len(resources.complaints([], resources.table_of([good]))) == 1


def test_a_log_in_other_words_is_no_pass() -> None:
    with pytest.raises(RuntimeError, match="does not tell"):
        resources.parse(LOG.replace("Used", "Takes"), "a.cu", "90")


def test_names() -> None:
    space = "dsa_fast::_GLOBAL__N__5cafb4d4_7_warp_cu_556f5882::"
    signature = f"void {space}f<unsigned char, (dsa_fast::Reduce)0>(dsa_fast::IuvMap, int)"
    assert resources.plain_name(signature) == "f<unsigned char, (Reduce)0>"


SASS = """
		Function : _Z1fPf
	.headerflags	@"EF_CUDA_TEXMODE_UNIFIED"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                         /* 0x00000a00ff017b82 */
                                                                                  /* 0x000fe20000000800 */
        /*0010*/              @!P0 LDG.E.U8.CONSTANT R2, desc[UR4][R2.64] ;       /* 0x0000000402028981 */
        /*0020*/                   LDG.E.64 R4, desc[UR4][R4.64+0x8] ;            /* 0x0000000404047981 */
        /*0030*/                   FFMA R2, R2, R2, R4 ;                          /* 0x0000000202027223 */
        /*0040*/                   ATOMS.MAX.S32 RZ, [R3], R2 ;                   /* 0x000000020300738c */
        /*0050*/               @P1 BRA 0x30 ;                                     /* 0xfffffffc00f01947 */
        /*0060*/                   STG.E.128 desc[UR4][R2.64], R4 ;               /* 0x0000000402007986 */
        /*0070*/               @P0 BRA 0x10 ;                                     /* 0xfffffffc00f01947 */
        /*0080*/                   EXIT ;                                         /* 0x000000000000794d */
        /*0090*/                   BRA 0x90;                                      /* 0xfffffffc00fc7947 */
        /*00a0*/                   NOP;                                           /* 0x0000000000007918 */
"""


def test_loops_are_found_in_machine_code() -> None:
    assert instructions.parse(SASS, "a.cu") == [Code("a.cu", "_Z1fPf", 10, [Loop(3, {"ATOMS.32": 1})])]
    one_loop = SASS.replace("BRA 0x30", "BRA 0x60")
    (code,) = instructions.parse(one_loop, "a.cu")
    assert code.loops == [Loop(7, {"ATOMS.32": 1, "LDG.64": 1, "LDG.8": 1, "STG.128": 1})]
    assert instructions.table_of([code]) == {
        "a.cu": {
            "_Z1fPf": {
                "instructions": 10,
                "loops": [{"instructions": 7, "memory": "1 ATOMS.32, 1 LDG.64, 1 LDG.8, 1 STG.128"}],
            }
        }
    }
    with pytest.raises(RuntimeError, match="no kernel of a.cu"):
        instructions.parse("Fatbin elf code", "a.cu")


@pytest.mark.parametrize(
    ("instruction_count", "loops", "complaint"),
    [
        (104, [Loop(44, {"LDG.32": 2, "STG.128": 1})], ""),  # as in the table, and a little more
        (60, [Loop(20, {"LDG.64": 1, "STG.128": 1})], ""),  # fewer, wider
        (106, [Loop(40, {"LDG.32": 2, "STG.128": 1})], "106 instructions, 100 in the table"),
        (100, [Loop(45, {"LDG.32": 2, "STG.128": 1})], "loop 1: 45 instructions, 40 in the table"),
        (100, [Loop(40, {"LDG.32": 3, "STG.128": 1})], "loop 1: uses memory by 3 LDG.32, 1 STG.128; in the table: 2"),
        (100, [Loop(40, {"LDG.32": 1, "LDG.8": 1, "STG.128": 1})], "loop 1: uses memory by 1 LDG.32, 1 LDG.8"),
        (100, [Loop(40, {"LDG.32": 2, "STG.64": 2})], "loop 1: uses memory by 2 LDG.32, 2 STG.64"),
        (100, [Loop(40, {"LDG.32": 2, "LDL.32": 1, "STG.128": 1})], "1 LDL.32"),
        (100, [], "0 innermost loops, 1 in the table"),
    ],
)
def test_more_instructions_and_narrower_loads_are_complained_of(
    instruction_count: int, loops: list[Loop], complaint: str
) -> None:
    table = instructions.table_of([Code("a.cu", "f", 100, [Loop(40, {"LDG.32": 2, "STG.128": 1})])])
    found = instructions.complaints([Code("a.cu", "f", instruction_count, loops)], table)
    assert len(found) == bool(complaint) and complaint in "".join(found)
    assert len(instructions.complaints([Code("a.cu", "g", 1, [])], table)) == 2
