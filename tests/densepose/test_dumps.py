"""Dumps of detectron2's apply_net.py: read without it, and nothing in them is ever run."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dsa_fast.densepose import choose_person, iuv_from_result, read_dump
from dsa_fast.densepose.unpickle import Call, read_values
from tests.fresh import run_fresh

pytestmark = pytest.mark.xdist_group("dumps")

# Writes dumps by classes that are named and made as detectron2's are; in a process of its own, so that the classes do
# not exist where the dumps are read.
WRITER = """
import base64, dataclasses, io, pickle, sys, types
import numpy as np, torch
from PIL import Image

def module(name):
    made = types.ModuleType(name)
    sys.modules[name] = made
    return made

for name in ("densepose", "densepose.structures", "detectron2", "detectron2.structures"):
    module(name).__path__ = []
chart = module("densepose.structures.chart_result")
cse = module("densepose.structures.cse")
heads = module("densepose.structures.chart")
instances = module("detectron2.structures.instances")

def dataclass(where, name, *fields):
    made = dataclasses.make_dataclass(name, fields)
    made.__module__ = where.__name__
    setattr(where, name, made)
    return made

Result = dataclass(chart, "DensePoseChartResult", "labels", "uv")
Confident = dataclass(chart, "DensePoseChartResultWithConfidences", "labels", "uv", "sigma_1", "sigma_2")
Quantized = dataclass(chart, "DensePoseChartResultQuantized", "labels_uv_uint8")
Compressed = dataclass(chart, "DensePoseChartResultCompressed", "shape_chw", "labels_uv_str")
Embedding = dataclass(cse, "DensePoseEmbeddingPredictorOutput", "embedding", "coarse_segm")
Output = dataclass(heads, "DensePoseChartPredictorOutput", "coarse_segm", "fine_segm", "u", "v")

class DensePoseResult:
    pass

DensePoseResult.__module__, DensePoseResult.__qualname__ = "densepose.structures", "DensePoseResult"
sys.modules["densepose.structures"].DensePoseResult = DensePoseResult

class Instances:
    pass

Instances.__module__ = "detectron2.structures.instances"
instances.Instances = Instances

def png(quantized):
    file = io.BytesIO()
    Image.fromarray(quantized.permute(1, 2, 0).contiguous().numpy()).save(file, "png")
    return base64.encodebytes(file.getvalue()).decode()

torch.manual_seed(0)
out = sys.argv[1]
images, plain = [], []
for number, people in enumerate((2, 0, 1)):
    corner = torch.rand(people, 2) * 30 - 8
    boxes = torch.cat((corner, corner + torch.rand(people, 2) * 40 + 0.3), 1)
    results = []
    for x0, y0, x1, y1 in boxes:
        shape = max(int(y1 - y0), 1), max(int(x1 - x0), 1)
        labels = torch.randint(0, 25, shape)
        uv = torch.rand(2, *shape) * 1.2 - 0.1
        results.append(Confident(labels, uv * (labels > 0), torch.rand(shape), None))
    images.append({"file_name": f"/people/{number}.jpg", "scores": torch.rand(people), "pred_boxes_XYXY": boxes})
    if people or number:
        images[-1]["pred_densepose"] = results
    plain.append([(r.labels, r.uv) for r in results])

def converted(convert):
    return [{**i, "pred_densepose": [convert(r) for r in i["pred_densepose"]]} for i in images]

def quantize(result):
    return torch.cat((result.labels[None].byte(), (result.uv * 255).clamp(0, 255).byte()))

torch.save(images, f"{out}/zip.pkl")
torch.save(images, f"{out}/legacy.pkl", _use_new_zipfile_serialization=False)
for protocol in range(6):
    with open(f"{out}/plain{protocol}.pkl", "wb") as file:
        pickle.dump(images, file, protocol)
torch.save(converted(lambda r: Result(r.labels, r.uv)), f"{out}/bare.pkl")
torch.save(converted(lambda r: Quantized(quantize(r))), f"{out}/quantized.pkl")
torch.save(converted(lambda r: Compressed((3, *r.labels.shape), png(quantize(r)))), f"{out}/compressed.pkl")
old = []
for image in images:
    result = DensePoseResult()
    result.boxes_xywh = image["pred_boxes_XYXY"].tolist()
    result.results = [((3, *r.labels.shape), png(quantize(r))) for r in image["pred_densepose"]]
    old.append({**image, "pred_densepose": result})
with open(f"{out}/old.pkl", "wb") as file:
    pickle.dump(old, file)
zeros = torch.zeros(2, 4, 4)
for name, wrong in {
    "cse": Embedding(zeros, zeros),
    "heads": [Output(zeros, zeros, zeros, zeros)] * 2,
    "labels": [Result(torch.full_like(r.labels, 25), r.uv) for r in images[0]["pred_densepose"]],
    "shape": [Result(r.labels, r.uv[:, 1:]) for r in images[0]["pred_densepose"]],
    "box": [Result(torch.ones(90, 90).long(), torch.ones(2, 90, 90)) for r in images[0]["pred_densepose"]],
    "few": images[0]["pred_densepose"][:1],
    "none": None,
}.items():
    torch.save([{**images[0], "pred_densepose": wrong}], f"{out}/{name}.wrong")
torch.save(Instances(), f"{out}/instances.wrong")
torch.save({"state": zeros}, f"{out}/checkpoint.wrong")
torch.save(zeros, f"{out}/tensor.wrong")
torch.save(plain, f"{out}/expected.pt")
"""


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dumps")
    done = run_fresh(WRITER, folder)
    assert done.returncode == 0, done.stderr
    return folder


READABLE = [
    "zip",
    "legacy",
    *(f"plain{protocol}" for protocol in range(2, 6)),
    "bare",
    "quantized",
    "compressed",
    "old",
]


@pytest.mark.parametrize("name", READABLE)
def test_dumps_are_read(dumps: Path, name: str) -> None:
    expected = torch.load(dumps / "expected.pt")
    entries = read_dump(dumps / f"{name}.pkl")
    assert [entry.file_name for entry in entries] == ["/people/0.jpg", "/people/1.jpg", "/people/2.jpg"]
    exact = name not in ("quantized", "compressed", "old")
    for entry, people in zip(entries, expected, strict=True):
        assert len(entry.people) == len(people)
        for person, (labels, uv) in zip(entry.people, people, strict=True):
            assert torch.equal(person.labels.long(), labels)
            if exact:
                assert torch.equal(person.uv, uv)
            iuv = person.iuv()
            assert torch.equal(iuv[0].long(), labels)
            rounded = (uv.clamp(0, 1) * 255).round()
            assert float((iuv[1:].float() - rounded).abs().max()) <= (0 if exact else 1)  # they truncate
            placed, (x0, y0) = person.iuv((60, 50)), (int(n) for n in person.box[:2])
            for y, x in ((0, 0), (labels.shape[0] // 2, labels.shape[1] // 2), (labels.shape[0] - 1, 0)):
                if 0 <= y + y0 < 60 and 0 <= x + x0 < 50:
                    assert torch.equal(placed[:, y + y0, x + x0], iuv[:, y, x])
            inside = torch.zeros(60, 50, dtype=torch.bool)
            inside[max(y0, 0) : max(y0 + labels.shape[0], 0), max(x0, 0) : max(x0 + labels.shape[1], 0)] = True
            assert not placed[:, ~inside].any()
    assert entries[1].choose((60, 50)) is None and not entries[1].iuv((60, 50)).any()
    assert torch.equal(entries[0].iuv((60, 50), person=1), entries[0].people[1].iuv((60, 50)))
    with pytest.raises(IndexError, match=r"person must be in 0..1, got 2: /people/0\.jpg"):
        entries[0].iuv((60, 50), person=2)


def test_text_pickles_are_read_as_far_as_they_hold_no_tensors(tmp_path: Path) -> None:
    value = [{"a": [1, -(2**70), 1.5, None, True], "b": ("x", "ü", (), {"c": []})}]
    for protocol in range(6):
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(value, protocol))
        assert read_values(tmp_path / "plain.pkl", ()) == value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cse",
            r"cse\.wrong, image 0 \(/people/0\.jpg\): got DensePoseEmbedding.* CSE .* chart model",
        ),
        ("heads", "got DensePoseChartPredictorOutput: raw network outputs, not results"),
        ("instances", "got Instances: raw network outputs"),
        ("labels", r"labels must be part ids 0..24, got 25..25"),
        ("shape", r"must hold labels \[h, w\] and uv"),
        ("box", "box must have the result's size, 90 x 90"),
        ("few", "pred_densepose must hold a result for each of 2 boxes, got 1"),
        ("none", "it has boxes, but no pred_densepose"),
        ("checkpoint", "an image must be a dict with a file_name, got dict"),
        ("tensor", "must be a list of images as apply_net.py dump writes it, got torch.float32"),
    ],
)
def test_what_is_no_dump_is_named(dumps: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_dump(dumps / f"{name}.wrong")
    assert f"{name}.wrong" in str(caught.value)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"file not found: .*none\.pkl"):
        read_dump(tmp_path / "none.pkl")
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b.txt", "text")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps([]))
    (tmp_path / "empty.pkl").touch()
    (tmp_path / "text.pkl").write_text("no pickle")
    for name, message in {
        "picture.png": "is not a torch.save file or pickle",
        "text.pkl": "is not a torch.save file or pickle",
        "empty.pkl": "got an empty file",
        "other.zip": "not one of torch.save",
        "packed.zip": "compressed or encrypted",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_dump(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["zip", "legacy", "plain2", "plain4"])
def test_cut_files_are_refused_at_every_length(dumps: Path, tmp_path: Path, name: str) -> None:
    whole = (dumps / f"{name}.pkl").read_bytes()
    cut = tmp_path / "cut.pkl"
    lengths = np.random.default_rng(0).integers(1, len(whole) - 1, 25).tolist()
    for length in [1, 2, 64, *lengths, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pkl"):
            read_dump(cut)


@pytest.mark.parametrize("name", ["zip", "legacy", "plain2", "plain4", "old"])
def test_damaged_files_fail_with_their_name_or_read(dumps: Path, tmp_path: Path, name: str) -> None:
    """Whatever is overwritten: a ValueError that names the file or, where only a number changed, a dump."""
    whole = (dumps / f"{name}.pkl").read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in generator.integers(0, len(whole), 3):
            damaged[at] = generator.integers(256)
        (tmp_path / "damaged.pkl").write_bytes(damaged)
        try:
            read_dump(tmp_path / "damaged.pkl")
        except ValueError as error:
            assert "damaged.pkl" in str(error)  # noqa: PT017 - it may also be read


def test_a_flipped_bit_of_a_zip_is_seen(dumps: Path, tmp_path: Path) -> None:
    whole = bytearray((dumps / "zip.pkl").read_bytes())
    with zipfile.ZipFile(dumps / "zip.pkl") as archive:
        info = next(it for it in archive.infolist() if "/data/" in it.filename and it.file_size)
    names = int.from_bytes(whole[info.header_offset + 26 : info.header_offset + 28], "little")
    extra = int.from_bytes(whole[info.header_offset + 28 : info.header_offset + 30], "little")
    whole[info.header_offset + 30 + names + extra] ^= 4
    (tmp_path / "flipped.pkl").write_bytes(whole)
    with pytest.raises(ValueError, match=r"flipped\.pkl .*record .* damaged"):
        read_dump(tmp_path / "flipped.pkl")


# ----------------------------------------------------------------------------------------------- malicious pickles


class Run:
    """Reduces to a call, as a malicious pickle has it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def as_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def as_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def as_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, 4))


def as_text(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, 0))


@pytest.mark.parametrize("write", [as_zip, as_legacy, as_pickle, as_text])
@pytest.mark.parametrize("place", ["alone", "image", "name", "deep"])
@pytest.mark.parametrize(
    "attack", ["system", "eval", "exec", "popen", "getattr", "import", "touch", "torch_load", "partial"]
)
def test_malicious_files_run_nothing(tmp_path: Path, attack: str, place: str, write: Callable[..., None]) -> None:
    import functools
    import importlib

    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()"
    evil = {
        "system": Run(os.system, f"touch {mark}"),
        "eval": Run(eval, code),
        "exec": Run(exec, code),
        "popen": Run(subprocess.Popen, ["touch", str(mark)]),
        "getattr": Run(getattr, Path, "touch"),
        "import": Run(importlib.import_module, "antigravity"),
        "touch": Run(Path, str(mark)),
        "torch_load": Run(torch.load, str(mark)),
        "partial": Run(functools.partial, os.system, f"touch {mark}"),
    }[attack]
    value = {
        "alone": evil,
        "image": [{"file_name": "a.jpg", "scores": evil}],
        "name": [{"file_name": evil, "pred_densepose": []}],
        "deep": [{"file_name": "a.jpg", "pred_densepose": [[(1, {"x": [evil]})]]}],
    }[place]
    write(value, tmp_path / "evil.pkl")
    with pytest.raises(ValueError, match=r"evil\.pkl is not loaded: it refers to .*; nothing was run"):
        read_dump(tmp_path / "evil.pkl")
    assert not mark.exists() and "antigravity" not in sys.modules


def test_a_malicious_pickle_inside_a_tensors_bytes_runs_nothing(tmp_path: Path) -> None:
    """Plain pickles hold each tensor as the bytes of another file."""
    mark = tmp_path / "ran"
    for write in (as_zip, as_legacy, as_pickle):
        write(Run(os.system, f"touch {mark}"), tmp_path / "inner")
        inner = (tmp_path / "inner").read_bytes()
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Run(torch.storage._load_from_bytes, inner)))
        with pytest.raises(ValueError, match=r"evil\.pkl"):
            read_dump(tmp_path / "evil.pkl")
    assert not mark.exists()


HAND_MADE = {
    # The instructions that reach a class or an object in other ways than by its name and a call.
    "inst": b"(S'touch MARK'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch MARK'\no.",
    "extension": b"\x82\x01.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch MARK\x85R.",
    "dotted": b"\x80\x04\x8c\x09torch\x8c\x0eos.system\x93.",
    "persistent": b"Pos\n.",
    "binary persistent": b"\x80\x02X\x02\x00\x00\x00osQ.",
    "call of a call": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)RR.",
    "storage type": b"\x80\x02ctorch\nFloatStorage\nK\x05\x85R.",
    "state of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
    "state of a list": b"\x80\x02]}b.",
    "setattr by slots": b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00base64\x86R.",
    "no value": b"\x80\x02.",
    "no mark": b"\x80\x02t.",
    "unset memory": b"\x80\x02h\x07.",
    "mark as value": b"\x80\x02](\x85.",
    "set of lists": b"\x80\x04\x8f(]\x90.",
    "odd pairs": b"\x80\x02}(K\x01u.",
    "list as key": b"\x80\x02}]K\x01s.",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_pickles_are_refused(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "m"
    (tmp_path / "evil.pkl").write_bytes(HAND_MADE[name].replace(b"MARK", str(mark).encode()))
    with pytest.raises(ValueError, match=r"evil\.pkl"):
        read_dump(tmp_path / "evil.pkl")
    assert not mark.exists()


def tensor_with(storage: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A plain pickle of a tensor over these bytes, whatever its geometry says."""
    file = io.BytesIO()
    torch.save(
        torch.storage.TypedStorage(
            wrap_storage=torch.frombuffer(bytearray(storage), dtype=torch.uint8).untyped_storage(),
            dtype=torch.uint8,
            _internal=True,
        ),
        file,
        _use_new_zipfile_serialization=False,
    )
    inner = Run(torch.storage._load_from_bytes, file.getvalue())
    return pickle.dumps(Run(torch._utils._rebuild_tensor_v2, inner, offset, shape, stride, False, {}))


def test_tensors_stay_inside_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tensor.pkl"
    path.write_bytes(tensor_with(bytes(range(12)), 1, (3, 2), (4, 1)))
    assert read_values(path, ()).tolist() == [[1, 2], [5, 6], [9, 10]]
    for offset, shape, stride in (
        (0, (13,), (1,)),
        (12, (1,), (1,)),
        (0, (1 << 40,), (0,)),
        (0, (2,), (1 << 62,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (True,), (1,)),
        (0, (1,) * 40, (1,) * 40),
    ):
        path.write_bytes(tensor_with(bytes(12), offset, shape, stride))
        with pytest.raises(ValueError, match=r"tensor\.pkl .*a tensor"):
            read_values(path, ())


def test_a_zip_that_promises_more_numbers_than_it_holds_is_refused(tmp_path: Path) -> None:
    """torch.load believes the number of elements in the pickle."""
    torch.save(torch.arange(4), tmp_path / "whole.pt")
    for count in (1 << 20, 1 << 40):
        name = str(tmp_path / f"short{count}.pt")
        with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(name, "w") as short:
            for info in whole.infolist():
                data = whole.read(info)
                if info.filename.endswith("/data.pkl"):  # both the storage's and the tensor's size
                    number = pickle.dumps(count, 2)[2:-1]
                    assert data.count(b"K\x04") == 2
                    data = data.replace(b"K\x04", number)
                short.writestr(info.filename, data)
        with pytest.raises(ValueError, match=r"short.* is not a torch.save file"):
            read_values(name, ())


def test_tensors_made_of_one_repeated_number_are_refused(tmp_path: Path) -> None:
    for write in (as_zip, as_legacy):
        write(torch.zeros(1).expand(1 << 40), tmp_path / "wide.pkl")
        with pytest.raises(ValueError, match=r"wide\.pkl .*a tensor reaches beyond its data"):
            read_values(tmp_path / "wide.pkl", ())


def test_only_plain_tensors_are_taken(tmp_path: Path) -> None:
    for tensor in (torch.eye(2).to_sparse(), torch.empty(2, device="meta"), torch.nn.Parameter(torch.ones(2))):
        torch.save([tensor], tmp_path / "odd.pkl")
        with pytest.raises(ValueError, match=r"odd\.pkl .*a tensor must be dense and on the CPU"):
            read_values(tmp_path / "odd.pkl", ())


def test_deep_nesting_exhausts_nothing(tmp_path: Path) -> None:
    for opener, closer in ((b"]" * 300_000, b"a" * 299_999), (b")" + b"\x85" * 300_000, b"")):
        (tmp_path / "deep.pkl").write_bytes(b"\x80\x02" + opener + closer + b".")
        with pytest.raises(ValueError, match=r"deep\.pkl"):
            read_dump(tmp_path / "deep.pkl")


def test_objects_become_inert_records(tmp_path: Path) -> None:
    (tmp_path / "object.pkl").write_bytes(b"\x80\x02cany.module\nThing\nK\x07\x85\x81}X\x01\x00\x00\x00aK\x01sb.")
    thing = read_values(tmp_path / "object.pkl", {"Thing"})
    assert isinstance(thing, Call)
    assert (thing.path, thing.args, thing.state) == ("any.module.Thing", (7,), {"a": 1})


def test_reading_needs_no_detectron2_and_imports_nothing_named_in_the_file(dumps: Path) -> None:
    script = f"""
        import sys
        from dsa_fast.densepose import read_dump
        before = set(sys.modules)
        assert len(read_dump({str(dumps / "zip.pkl")!r})) == 3
        assert not {{name for name in sys.modules if name.startswith(("densepose", "detectron2"))}}
    """
    done = run_fresh(textwrap.dedent(script))
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------- results, whose it is


def test_results_in_memory() -> None:
    labels = torch.tensor([[0, 3], [24, 5]])
    uv = torch.tensor([[[0.5, -0.2], [1.3, 0.5]], [[0.5, 0.25], [float("nan"), 1.0]]])
    iuv = iuv_from_result(labels, uv)
    assert iuv.tolist() == [[[0, 3], [0, 5]], [[0, 0], [0, 128]], [[0, 64], [0, 255]]]
    placed = iuv_from_result(labels, uv, (-1.9, 2.2, 0.5, 4.5), (4, 3))
    assert placed[:, 2, 0].tolist() == [3, 0, 64] and placed[:, 3, 0].tolist() == [5, 128, 255]
    assert int((placed[0] > 0).sum()) == 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": torch.zeros(1, 2, 2).long()}, ValueError, r"labels must have shape \[h, w\], got \[1, 2, 2\]"),
        ({"uv": torch.zeros(2, 2, 3)}, ValueError, r"uv must have shape \[2, 2, 2\] to match labels"),
        ({"uv": torch.zeros(2, 2, 2).long()}, TypeError, "uv must be floating point, got torch.int64"),
        ({"labels": torch.full((2, 2), 25)}, ValueError, "labels must be part ids 0..24, got numbers from 25 to 25"),
        ({"labels": torch.full((2, 2), 1.5)}, ValueError, "labels must be part ids 0..24"),
        ({"labels": torch.full((2, 2), -1)}, ValueError, "labels must be part ids 0..24"),
        ({"box": (0, 0, 2, 2)}, ValueError, "box and size must be given together"),
        ({"box": (0, 0, 2), "size": (4, 4)}, ValueError, "box must be four finite numbers"),
        ({"box": (0, 0, 2, float("nan")), "size": (4, 4)}, ValueError, "box must be four finite numbers"),
        ({"box": (0, 0, 9, 2), "size": (4, 4)}, ValueError, r"size, 2 x 2 \(width x height\), got 9 x 2"),
        ({"box": (0, 0, 2, 2), "size": (0, 4)}, ValueError, "size must be a positive"),
    ],
)
def test_bad_results_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        iuv_from_result(**{"labels": torch.zeros(2, 2).long(), "uv": torch.zeros(2, 2, 2), **changes})


def test_the_person_in_the_middle_is_chosen() -> None:
    size = (128, 64)
    edge, middle, small = [0.0, 0, 12, 128], [20.0, 10, 60, 120], [30.0, 40, 34, 60]
    assert choose_person(torch.tensor([edge, middle, small]), torch.tensor([0.99, 0.6, 0.9]), size) == 1
    assert choose_person(torch.tensor([edge]), torch.tensor([0.99]), size) is None
    assert choose_person(torch.tensor([small]), torch.tensor([0.1]), size) == 0
    # A surer person is taken of two at the same place; of equals the one with more of the crop, then the first.
    assert choose_person(torch.tensor([middle, middle]), torch.tensor([0.5, 0.6]), size) == 1
    assert choose_person(torch.tensor([middle, middle]), torch.tensor([0.6, 0.6]), size) == 0
    larger = [10.0, 10, 60, 120]
    window = [16.0, 32, 48, 96]
    assert choose_person(torch.tensor([window, larger]), torch.tensor([0.6, 0.6]), size) == 1
    assert choose_person(torch.empty(0, 4), torch.empty(0), size) is None


def test_what_is_not_finite_is_never_chosen() -> None:
    whole = [0.0, 0, 64, 128]
    odd = torch.tensor([[0, 0, float("inf"), 128], whole, whole, [60, 100, 10, 20], [0, 0, 20, 128]])
    scores = torch.tensor([0.9, float("nan"), -1.0, 0.9, 0.1])
    assert choose_person(odd, scores, (128, 64)) == 4
    with pytest.raises(ValueError, match=r"boxes must have shape \[N, 4\], got \[4\]"):
        choose_person(torch.zeros(4), torch.zeros(1), (4, 4))
    with pytest.raises(ValueError, match=r"scores must have shape \[2\]"):
        choose_person(torch.zeros(2, 4), torch.zeros(3), (4, 4))
    with pytest.raises(ValueError, match="size must be a positive"):
        choose_person(torch.zeros(2, 4), torch.zeros(2), (0, 4))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-20, 80)] * 4, st.integers(0, 10)), max_size=6), st.randoms())
def test_the_choice_does_not_hang_on_the_order(people: list[tuple[int, ...]], random: Any) -> None:
    def chosen(listed: list[tuple[int, ...]]) -> tuple[int, ...] | None:
        table = torch.tensor(listed, dtype=torch.float32).view(-1, 5)
        index = choose_person(table[:, :4], table[:, 4], (64, 48))
        return None if index is None else listed[index]

    def worth(it: tuple[int, ...] | None) -> float:
        if it is None:
            return 0.0
        x0, y0, x1, y1, score = it
        width, height = min(x1, 36) - max(x0, 12), min(y1, 48) - max(y0, 16)
        return score * max(width, 0) * max(height, 0)

    best, shuffled = chosen(people), list(people)
    random.shuffle(shuffled)
    assert worth(best) == worth(chosen(shuffled)) == max(map(worth, people), default=0.0)


@pytest.mark.parametrize("depth", [50, 300_000])
@pytest.mark.parametrize("kind", ["pickle", "memo", "zip", *range(5)])
def test_a_deeply_nested_key_does_not_end_the_process(tmp_path: Path, kind: str | int, depth: int) -> None:
    """Python would hash the key by recursion until its stack is used up. A number: that pickle of the older format."""
    nested = b"\x80\x02}K\x01" + depth * b"\x85" + b"K\x01s."
    path = tmp_path / "deep"
    if kind == "memo":
        nested = b"\x80\x02}K\x01q\x00" + depth * b"0h\x00\x85q\x00" + b"K\x01s."
    if kind in ("pickle", "memo"):
        path.write_bytes(nested)
    elif kind == "zip":
        torch.save({1: torch.ones(2)}, tmp_path / "plain")
        with zipfile.ZipFile(tmp_path / "plain") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, nested if name.endswith("data.pkl") else old.read(name))
    else:
        torch.save([torch.ones(2)], tmp_path / "plain", _use_new_zipfile_serialization=False)
        file = io.BytesIO((tmp_path / "plain").read_bytes())
        ends = [0]
        for _ in range(5):
            list(pickletools.genops(file))
            ends.append(file.tell())
        whole, number = file.getvalue(), int(kind)
        path.write_bytes(whole[: ends[number]] + nested + whole[ends[number + 1] :])
    if depth > 100:
        with pytest.raises(ValueError, match="nests values more than 100 deep"):
            read_values(path, [])
    elif kind in ("pickle", "memo", "zip"):
        assert len(read_values(path, [])) == 1
