"""The CUDA kernels' registers, shared and local memory, as the compiler tells them; needs nvcc but no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.native import kernel_resources as resources
from tests.native.kernel_resources import Usage

LOG = """
ptxas info    : Compiling entry function '_Z1fPf' for 'sm_90'
ptxas info    : Function properties for _Z1fPf
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 41 registers, used 1 barriers, 2048 bytes smem
"""


def test_kernels_stay_within_the_table(tmp_path: Path) -> None:
    nvcc = resources.find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc (on PATH or in CUDA_HOME) or c++filt is not there: the kernels' registers are not checked")
    usages = resources.measure(nvcc, tmp_path)
    assert {usage.file for usage in usages} == {file.name for file in resources.sources()}
    assert {usage.arch for usage in usages} == set(resources.ARCHS)
    found = resources.complaints(usages, json.loads(resources.TABLE.read_text()))
    assert not found, "\n".join([*found, "If this is meant: python tests/native/kernel_resources.py --write"])


def test_every_source_is_in_the_table() -> None:
    if not resources.sources():
        pytest.skip("the CUDA sources are not beside the tests")
    assert set(json.loads(resources.TABLE.read_text())) == {file.name for file in resources.sources()}


def test_flags_are_those_of_the_build() -> None:
    setup = resources.SOURCE / "setup.py"
    if not setup.exists():
        pytest.skip("setup.py is not beside the tests")
    assert '"nvcc": [' + ", ".join(f'"{flag}"' for flag in resources.FLAGS) in setup.read_text()


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
