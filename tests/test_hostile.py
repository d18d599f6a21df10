"""Hostile files and names, odd terminals, full disks and second processes: a clear word, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsa_fast.cli import main
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.files import atomic_path, is_left_over, locked, remove_left_over, temporary_folder
from dsa_fast.image import image_size, open_image, read_image, upright
from tests.commands import CASES, all_names
from tests.fresh import ROOT, run_fresh

# The smallest training run.
SMALL = [
    *("--data.p=2", "--data.k=2", "--data.workers=0", "--data.cache=off", "--augment.size=[32,16]"),
    *("--augment.dsap_size=8", "--augment.pad=2", "--trainer.accelerator=cpu", "--trainer.progress=false"),
    *("--model.backbone=resnet18", "--model.pretrained=null", "--model.width=0.05", "--model.classifier_dim=8"),
]


def noise(height: int = 12, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# ------------------------------------------------------------------------------------------------------- images


def test_a_format_that_starts_a_program_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")

    def no(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", no)
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=r"a\.png must be a readable image"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_common_formats_are_read_by_content(kind: str, tmp_path: Path) -> None:
    noise().save(tmp_path / "a", kind)
    assert read_image(tmp_path / "a").shape == (3, 12, 8)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX"])
def test_other_formats_are_refused(kind: str, tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png", kind)
    with pytest.raises(ValueError, match="must be a readable image"):
        read_image(tmp_path / "a.png")


def test_a_pipe_is_no_image_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match="must be a regular file"):
            read(tmp_path / "a.png")
    with pytest.raises(ValueError, match="must be a regular file"):
        read_image(Path("/dev/zero"))
    with pytest.raises(ValueError, match="must be a regular file"):
        read_image(tmp_path)


def test_pixels_are_limited_by_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(12, 8).save(tmp_path / "a.png")
    monkeypatch.setenv("DSA_FAST_MAX_PIXELS", "95")
    with pytest.raises(ValueError, match=r"8 x 12 pixels, and DSA_FAST_MAX_PIXELS .* allows 95"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("DSA_FAST_MAX_PIXELS", "96")
    assert image_size(tmp_path / "a.png") == (12, 8)
    monkeypatch.setenv("DSA_FAST_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="DSA_FAST_MAX_PIXELS must be a number"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("side", [9000, 20000])
def test_a_decompression_bomb_is_unreadable(side: int, tmp_path: Path) -> None:
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match="must be a readable image"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_of_16_bits_is_scaled_by_its_range(kind: str, tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", kind)
    expected = np.round(values / 257).astype(np.uint8)
    for channel in read_image(tmp_path / "a.png").numpy():
        np.testing.assert_array_equal(channel, expected)
    given = Image.fromarray(values.astype(np.int32))  # mode I
    np.testing.assert_array_equal(np.asarray(upright(given))[..., 0], expected)


def test_gray_of_other_ranges_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.5, 300.0]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="gray pixels must have 8 or 16 bits"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="gray pixels must have 8 or 16 bits"):
        upright(Image.fromarray(np.array([[-5, 70000]], np.int32)))


def test_all_readers_see_a_turned_photo_upright(tmp_path: Path) -> None:
    from dsa_fast.deploy.image_batch import ImageBatch

    exif = Image.Exif()
    exif[0x0112] = 6
    noise(12, 8).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, 8, 12) and image_size(tmp_path / "a.png") == (8, 12)
    plain = read_image(tmp_path / "a.png")[None]
    for given in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        assert torch.equal(ImageBatch(given).read(0, 1, (8, 12)), plain)


def test_any_error_of_a_decoder_is_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise().save(tmp_path / "a.png")
    for error in (Image.DecompressionBombError("big"), SyntaxError("odd"), MemoryError(), RecursionError("deep")):

        def fail(*args: object, error: BaseException = error, **kwargs: object) -> None:
            raise error

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(ValueError, match="must be a readable image"), open_image(tmp_path / "a.png"):
            pass


# ------------------------------------------------------------------------------------------------------- names

NAMES = ("s[/b]", "out[red]", "a%s#?'\" &<script>", "new\nline", "-dash", "a\udcff", "ü😀", ":smile:")


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_read_written_and_shown(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dsa_fast.deploy.inputs import find_items, read_items
    from dsa_fast.deploy.vector_files import Vectors, read_vectors, write_vectors

    folder = tmp_path / name
    folder.mkdir(parents=True)
    file_name = f"{name.replace('/', '')}.png"
    noise().save(folder / file_name)
    items = find_items(folder)
    assert [item.path.name for item in items] == [file_name]
    assert all(isinstance(image, torch.Tensor) for image in read_items(items))
    made = Vectors.from_items(np.ones((1, 4), np.float32), items)
    files = [tmp_path / "v.npz"]
    if __import__("importlib").util.find_spec("pyarrow"):
        files.append(tmp_path / "v.parquet")
    for file in files:
        write_vectors(file, [made])
        assert read_vectors(file).item(0).path == items[0].path
    settings = ["--identities=2", "--cameras=2", "--images_per_camera=2", "--height=16", "--width=16"]
    assert main(["synth", "--out", str(folder / "people"), *settings]) == 0
    shown = capsys.readouterr().out
    plain = str(folder / "people").encode("utf-8", "backslashreplace").decode()
    assert plain in shown


def test_tables_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from dsa_fast.terminal import console

    table = Table(title="s[/b]")
    table.add_column("x[red]")
    table.add_row("[bold]a[/b]")
    console(width=80).print(table)
    out = capsys.readouterr().out
    assert "s[/b]" in out and "x[red]" in out and "[bold]a[/b]" in out


# ------------------------------------------------------------------------------------- locks and what is left over


def test_a_second_process_is_told_who_has_the_output(tmp_path: Path) -> None:
    program = (
        f"from dsa_fast.files import locked\nwith locked({str(tmp_path / 'x')!r}): print('have', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == "have\n"
    with (
        pytest.raises(BlockingIOError, match=rf"x is in use by process {holder.pid} on .*: wait"),
        locked(tmp_path / "x"),
    ):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "x"), locked(tmp_path / "x"):  # the dead hold nobody up; a thread may lock again
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_in_a_folder_is_told_who_trains_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = (
        f"from dsa_fast.files import locked\n"
        f"with locked({str(tmp_path / 'run')!r}, folder=True): print('have', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "have\n"
    before = sorted((tmp_path / "run").iterdir())
    for arguments in (
        ["fit", "--data.root", str(tmp_path), "--out", str(tmp_path / "run"), "--seed=1"],
        ["tables", "--data.root", str(tmp_path), "--out", str(tmp_path / "run")],
        ["demo", "--out", str(tmp_path / "run")],
        ["rank", "x.ckpt", str(tmp_path), "--out", str(tmp_path / "run")],
    ):
        assert main(arguments) == 1
        assert f"run is in use by process {holder.pid} on " in capsys.readouterr().err
    assert sorted((tmp_path / "run").iterdir()) == before
    holder.kill()
    holder.wait()


def test_a_lock_of_a_folder_leaves_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), locked(tmp_path / "new", folder=True):
        raise ValueError("no")
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "new", folder=True):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_two_threads_exclude_each_other(tmp_path: Path) -> None:
    seen: list[str] = []

    def other() -> None:
        try:
            with locked(tmp_path / "x"):
                seen.append("in")
        except BlockingIOError:
            seen.append("blocked")

    with locked(tmp_path / "x"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["blocked"]


def test_two_adds_lose_nothing(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    from dsa_fast.deploy.index import VectorIndex
    from dsa_fast.deploy.vector_files import Vectors

    def some(count: int, seed: int) -> Vectors:
        values = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
        paths = np.array([f"{seed}/{i}" for i in range(count)])
        return Vectors(values, paths, np.full(count, -1, np.int64), np.zeros((count, 4), np.int64))

    VectorIndex.build(tmp_path / "index", some(5, 0))
    first, second = VectorIndex.open(tmp_path / "index"), VectorIndex.open(tmp_path / "index")
    first.add(some(3, 1))
    with pytest.raises(ValueError, match="another process has changed the index"):
        second.add(some(3, 2))
    again = VectorIndex.open(tmp_path / "index")
    again.add(some(3, 2))
    again.add(some(3, 2))  # the same call again, such as after a kill
    assert len(VectorIndex.open(tmp_path / "index")) == 11
    for wrong in (np.nan, np.inf):
        vectors = some(3, 3)
        vectors.vectors[1, 2] = wrong
        for call in (again.add, lambda given: VectorIndex.build(tmp_path / "other", given)):
            with pytest.raises(ValueError, match="vectors must be finite"):
                call(vectors)
    for kind in ("IVF0,Flat", "HNSW0", "PQ0", "IVF99999999,Flat"):
        with pytest.raises(ValueError, match="kind must"):
            VectorIndex.build(tmp_path / "other", some(5, 0), kind=kind)
    assert not (tmp_path / "other").exists()


def test_only_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom dsa_fast.files import atomic_path, temporary_folder\n"
        f"with atomic_path({str(tmp_path / 'a.npz')!r}) as t, temporary_folder({str(tmp_path / 'b')!r}) as f:\n"
        "    t.touch(); (f / 'x').touch(); print('made', flush=True); input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    assert len(list(tmp_path.iterdir())) == 2 and remove_left_over(tmp_path) == 0
    process.kill()
    process.wait()
    assert all(map(is_left_over, tmp_path.iterdir()))
    with atomic_path(tmp_path / "c") as temporary:  # any writer in the folder clears it
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    name = "ü" * 120 + ".json"  # 245 bytes
    with atomic_path(tmp_path / name) as temporary:
        temporary.touch()
    with locked(tmp_path / name), temporary_folder(tmp_path / name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --------------------------------------------------------------------------------------------------- resources


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dsa_fast.deploy.vector_files import Vectors, write_vectors

    file = tmp_path_factory.mktemp("vectors") / "v.npz"
    values = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32)
    made = Vectors(
        values, np.array([str(i) for i in range(2000)]), np.full(2000, -1, np.int64), np.zeros((2000, 4), np.int64)
    )
    write_vectors(file, [made])
    return file


def limited(code: str, *, size: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code with files of at most `size` bytes, as on a full disk."""
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n" if size else ""
    code = f"import sys\nfrom dsa_fast.cli import main\n{limit}{code}"
    if not environment:
        return run_fresh(code)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}, timeout=300,
    )  # fmt: skip


def test_a_full_disk_is_a_word_and_keeps_what_was_there(vectors: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    done = limited(
        f"status = main(['search', 'build', {str(tmp_path / 'index')!r}, {str(vectors)!r}])\n"
        f"status += 10 * main(['synth', '--out', {str(tmp_path / 'people')!r}, '--identities=2', '--workers=1'])\n"
        "sys.exit(status)",
        size=3000,
    )
    assert done.returncode == 11, done.stderr
    assert "index-000000.faiss" in done.stderr and "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if not is_left_over(path)] in ([], ["index"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_checkpoint_on_a_full_disk_stays_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsa_fast.training.checkpoints import SyncedCheckpoints, find_last

    writer, last = SyncedCheckpoints(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"epoch": 1, "global_step": 1, "state_dict": {}}, last)
    before = last.read_bytes()

    def full(value: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"last\.ckpt could not be written, and is as before"):
        writer.save_checkpoint({"epoch": 2}, last)
    assert last.read_bytes() == before and find_last(tmp_path) == last
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_checkpoint_before_is_taken_with_a_word(tmp_path: Path) -> None:
    from dsa_fast.training.checkpoints import SyncedCheckpoints, find_last

    SyncedCheckpoints().save_checkpoint({"epoch": 1, "global_step": 1, "state_dict": {}}, tmp_path / "x.ckpt")
    whole = (tmp_path / "x.ckpt").read_bytes()
    for cut in (b"", whole[: len(whole) // 2]):
        (tmp_path / "previous.ckpt").write_bytes(whole)
        (tmp_path / "last.ckpt").write_bytes(cut)
        with pytest.warns(UserWarning, match="going on from the checkpoint before it"):
            assert find_last(tmp_path) == tmp_path / "last.ckpt"
        assert (tmp_path / "last.ckpt").read_bytes() == whole and not (tmp_path / "previous.ckpt").exists()
    (tmp_path / "last.ckpt").write_bytes(b"cut")
    with pytest.raises(ValueError, match="resume needs a whole checkpoint"):
        find_last(tmp_path)


def test_a_folder_without_permission_is_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    assert main(["synth", "--out", str(tmp_path / "x"), "--identities=2"]) == 1
    assert "ermission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "environment",
    [{"TERM": "dumb", "LANG": "C", "LC_ALL": "C", "HOME": ""}, {"PYTHONIOENCODING": "ascii"}],
    ids=str,
)
def test_odd_terminals_are_fine(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "ü[/b]"
    settings = "'--identities=2', '--cameras=2', '--images_per_camera=2', '--height=16', '--width=16'"
    done = limited(f"sys.exit(main(['synth', '--out', {str(out)!r}, {settings}]))", **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (out / "synth.json").exists()


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    program = "import sys\nfrom dsa_fast.cli import main\nsys.exit(main(['fit', '--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read() and process.wait() in (0, 1, 120, 141)


def test_term_is_handled_as_an_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dsa_fast.cli.guard import guarded

    def wait() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert guarded("dsa-fast x", wait) == 143
    assert capsys.readouterr().err.startswith("dsa-fast x: terminated after 0")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("could not create a primitive"), RuntimeError("can't start new thread")]
)
def test_little_memory_is_a_word(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    from dsa_fast.cli.guard import guarded

    def run() -> int:
        raise error

    assert guarded("dsa-fast x", run) == 1
    assert "there is too little memory" in capsys.readouterr().err


def test_a_python_that_cannot_read_its_own_files_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dsa_fast.cli import guard

    def run() -> int:
        raise ModuleNotFoundError("No module named 'concurrent.futures.process'")

    monkeypatch.setattr(guard.os, "access", lambda *args: False)
    assert guard.guarded("dsa-fast x", run) == 1
    said = capsys.readouterr().err
    assert "No module named 'concurrent.futures.process'; this user can't read Python's files in " in said
    monkeypatch.undo()
    with pytest.raises(ModuleNotFoundError):
        guard.guarded("dsa-fast x", run)


_GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"


@pytest.mark.parametrize(
    ("name", "place", "advice"),
    [
        (
            "fit",
            "dsa_fast.training.module.ReIDTask.training_step",
            "lower --data.p or --data.k or --data.test_batch, or choose --trainer.precision bf16-mixed",
        ),
        ("eval", "dsa_fast.evaluation.embedding.ModelEmbedder.__call__", "lower --batch, or choose --device cpu"),
        ("embed", "dsa_fast.deploy.encoder.Encoder.__call__", "lower --batch, or choose --device cpu"),
        ("prepare --method=torchscript", "torch.jit.load", "lower --batch, or choose --device cpu"),
        ("warp", "dsa_fast.visual.atlas.photo_and_parts", "lower --size"),
    ],
)
def test_a_gpu_without_memory_is_a_word(
    name: str, place: str, advice: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError(_GPU)

    if not CASES[name].can_run:
        pytest.skip(f"needs {', '.join(CASES[name].needs)}")
    monkeypatch.setattr(place, full)
    assert main(CASES[name].arguments(inputs, tmp_path)) == 1
    said = capsys.readouterr().err
    assert f"error: the GPU has too little memory: {advice} ({_GPU})" in said and "Traceback" not in said
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") or path.suffix in (".png", ".ckpt")]


def test_a_library_thread_without_space_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    from dsa_fast.cli.guard import guarded

    def full() -> None:
        raise OSError(28, "No space left on device")

    def run() -> int:
        thread = threading.Thread(target=full)
        thread.start()
        thread.join()
        return 0

    before = threading.excepthook
    assert guarded("dsa-fast x", run) == 0 and threading.excepthook is before
    assert capsys.readouterr().err == "dsa-fast x: error in the background: [Errno 28] No space left on device\n"


# ------------------------------------------------------------------- no process, no socket, nothing written outside

_AUDITED = """
import os, sys
allowed, seen, home = sys.argv[1], [], os.path.expanduser("~")
def hook(event, args):
    if event == "subprocess.Popen" and args[0] in ("/sbin/ldconfig", "fc-list"):
        return  # PyTorch asks for libraries when it is imported, and matplotlib for fonts when it is first used
    if event.startswith((
        "socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.", "os.posix_spawn", "os.exec", "os.system",
        "os.fork", "urllib.", "ftplib.", "http.client", "webbrowser",
    )):
        seen.append((event, str(args)[:300]))
    elif event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[1], str):
        path = os.path.abspath(os.fsdecode(args[0]))
        if set(args[1]) & set("wax+") and not path.startswith((allowed, "/dev/", "/proc/", "/sys/")):
            seen.append((event, path))
sys.addaudithook(hook)
from dsa_fast.cli import main
for line in sys.stdin:
    arguments = eval(line)
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        status = f"{type(error).__name__}"
        import traceback
        traceback.print_exc()
    print("ran", arguments[0], status, file=sys.stderr)
print(seen)
"""


_VIDEOS = ("v.mp4", "w.mp4")


def hostile(folder: Path) -> Path:
    """A folder of files that try to start something."""
    folder.mkdir()
    (folder / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    (folder / "b.jpg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x"/></svg>')
    (folder / "c.png").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (folder / "v.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (folder / "w.mp4").write_text("ffconcat version 1.0\nfile http://127.0.0.1:9/a.mp4\n")
    (folder / "videos.csv").write_text("video,frame\nv.mp4,0\nw.mp4,0\nhttp://127.0.0.1:9/a.mp4,0\n")
    noise().save(folder / "fine.png")
    (folder / "d.onnx").write_text("http://127.0.0.1:9/d.onnx")
    (folder / "d.onnx.json").write_text('{"format": "dsa_fast.artifact", "file": "http://127.0.0.1:9/d.onnx"}')
    (folder / "current.json").write_text('{"format": "dsa_fast.index", "files": ["/etc/passwd"]}')
    (folder / "config.yaml").write_text("options: {x: {class_path: os.system, init_args: {command: 'true'}}}\n")
    return folder


def test_no_command_starts_a_process_opens_a_socket_or_writes_outside(
    inputs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All commands run, and on hostile inputs they say a word; without a home, and at a terminal that can nothing."""
    is_long = request.config.getoption("--kills") > 0
    inputs, out = shutil.copytree(inputs, tmp_path / "in"), tmp_path / "out"
    bad, ckpt = hostile(tmp_path / "bad"), str(inputs / "model.ckpt")
    commands: list[list[str]] = []
    for name, case in CASES.items():
        if case.can_run and (is_long or name not in ("demo", "export", "tables")):
            place = out / name.replace(" ", "_")
            place.mkdir(parents=True)
            case.before(inputs, place)
            commands.append(case.arguments(inputs, place))
    embed = ["--workers=1", "--skip_unreadable", "--device=cpu"]
    maps, prepare = ["--out", str(out / "maps")], ["prepare", str(bad), "--name=folder"]
    attacks: list[list[str]] = [
        ["embed", ckpt, str(bad), str(out / "bad.npz"), *embed],
        ["embed", ckpt, str(bad / "videos.csv"), str(out / "videos.npz"), *embed],
        ["embed", str(bad / "a.png"), str(bad), str(out / "w.npz"), *embed],
        ["inspect", str(bad), "--out", str(out / "inspect")],
        [*prepare, "--method=keypoints", "--keypoints.file", str(bad / "a.png"), *maps],
        [*prepare, "--method=torchscript", "--torchscript.weights", str(bad / "a.png"), *maps],
        [*prepare, "--method=smpl", "--smpl.folder", str(bad), "--smpl.uv", str(bad / "a.png"), *maps],
        [
            *prepare,
            "--method=smpl",
            "--smpl.folder",
            str(bad),
            *maps,
            "--smpl.model",
            str(bad / "a.png"),
            "--smpl.uv",
            str(inputs / "uv.mat"),
        ],
        [*prepare, "--method=dump", "--dump.file", str(bad / "a.png"), *maps],
        *(
            ["crops", str(bad / name), "--out", str(out / "crops"), "--detector", str(bad / "d.onnx")]
            for name in _VIDEOS
        ),
        ["split", str(bad), "--out", str(out / "bad.csv")],
        ["split", str(bad / "videos.csv"), "--out", str(out / "bad.csv")],
        ["pack", str(bad), "--out", str(out / "bad.dsaiuv")],
        ["fit", f"--data.root={bad}", "--out", str(out / "badfit")],
        ["tables", f"--data.root={bad}", "--out", str(out / "badtables")],
        ["eval", "--config", str(bad / "config.yaml")],
        ["rank", ckpt, str(bad), "--out", str(out / "badrank")],
        ["export", str(bad / "a.png"), "--out", str(out / "bad.onnx")],
        ["calibrate", str(bad / "d.onnx"), str(bad)],
        ["verify", str(bad / "a.png"), str(bad / "b.jpg"), "--encoder", str(bad / "d.onnx")],
        ["search", "build", str(out / "badindex"), str(bad / "a.png")],
        ["search", "query", str(bad), str(bad / "a.png")],
        ["warp", str(bad / "fine.png"), str(bad / "a.png"), "--out", str(out / "w.png")],
    ]
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "COLUMNS")}
    environment |= {"TERM": "dumb", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"MPLCONFIGDIR": str(tmp_path / "mpl"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _AUDITED, str(tmp_path)],
        input="".join(f"{command!r}\n" for command in [*commands, *attacks]), capture_output=True, text=True, cwd=ROOT,
        timeout=900, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = re.split(r"^ran (.+) (\S+)\n", done.stderr, flags=re.MULTILINE)
    assert said[1::3] == [command[0] for command in [*commands, *attacks]]
    wrong = []
    for command, text, status in zip([*commands, *attacks], said[::3], said[2::3], strict=False):
        fine = status == "0" if command in commands or command == attacks[0] else status in ("1", "2")
        if not fine or "Traceback" in text or "unrecognized" in text:
            wrong.append(f"{' '.join(command)}: {status}: {text[-700:]}")
    assert not wrong, "\n".join(wrong)
    seen: list[Any] = eval(done.stdout.strip().splitlines()[-1])
    assert not seen, json.dumps(seen, indent=1)


def test_all_commands_are_tried() -> None:
    assert {name.partition(" --")[0] for name in CASES} == all_names()


def test_openvino_reports_to_nobody() -> None:
    pytest.importorskip("openvino")
    program = (
        "import sys\nfrom dsa_fast.extras import require\nrequire('openvino')\n"
        "print(any(name.startswith('openvino_telemetry') for name in sys.modules))"
    )
    done = run_fresh(program)
    assert done.stdout.strip() == "False", done.stderr


def test_onnx_runtime_notes_nothing_to_report(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tests.fuzz import corpus

    if not corpus.detectors():
        pytest.skip("needs onnx")
    (tmp_path / "a.onnx").write_bytes(corpus.detectors()[0])
    (tmp_path / "home").mkdir()
    program = "import sys\nfrom dsa_fast.deploy.detectors import OnnxDetector\nOnnxDetector(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    done = run_fresh(program, tmp_path / "a.onnx", environment={**environment, "HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr
    assert not [path for path in (tmp_path / "home").rglob("*") if "onnxruntime" in str(path)]


# ------------------------------------------------------------------------------------------- training that has failed


@pytest.mark.parametrize("lr", ["1e30", "1e18"])
def test_training_that_has_failed_says_so(lr: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SynthConfig(identities=4, cameras=2, images_per_camera=2, height=32, width=16, distractors=0, junk=0)
    people = make_dataset(tmp_path / "people", config)
    arguments = ["fit", f"--data.root={people}", "--data.p=2", "--data.k=2", "--data.workers=0", "--data.cache=off"]
    arguments += [
        "--augment.size=[32,16]",
        "--augment.dsap_size=8",
        "--trainer.max_epochs=4",
        "--trainer.accelerator=cpu",
    ]
    arguments += [
        "--model.backbone=resnet18",
        "--model.pretrained=null",
        "--model.width=0.05",
        "--trainer.progress=false",
    ]
    arguments += ["--model.classifier_dim=8", f"--optim.lr={lr}", f"--optim.warmup_lr={lr}", "--optim.warmup_epochs=0"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 1
    assert "training has failed" in capsys.readouterr().err


@pytest.mark.parametrize("value", [".inf", ".nan", "-1"])
def test_a_learning_rate_that_is_no_number_is_refused(value: str, tmp_path: Path) -> None:
    try:
        status: object = main(["fit", "--data.root=x", f"--optim.lr={value}", "--out", str(tmp_path / "run")])
    except SystemExit as error:
        status = error.code
    assert status in (1, 2)
    assert not (tmp_path / "run").exists()
