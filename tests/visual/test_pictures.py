"""Ranked lists, charts, activation maps and synthetic people as pictures; charts as SVG."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from dsa_fast.data.synth import SynthConfig
from dsa_fast.evaluation import DistanceHistogram, RankedLists
from dsa_fast.visual import palette
from dsa_fast.visual.activation import activation_grid, color_table, overlay
from dsa_fast.visual.charts import cmc_curves, cmc_svg, curves, distance_distributions, distance_svg
from dsa_fast.visual.contact_sheet import synthetic_people
from dsa_fast.visual.layout import font, save_picture, shorten, tile_table
from dsa_fast.visual.ranked_lists import Found, ranked_lists, search_results
from tests.fresh import run_fresh

QUERY, RIGHT, WRONG, LEFT_OUT = map(ImageColor.getrgb, (palette.QUERY, palette.RIGHT, palette.WRONG, palette.LEFT_OUT))


@dataclass
class Item:
    path: Path
    pid: int
    camid: int


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Six images, each of one grey that tells it from the others."""
    made = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (32, 64), (20 + 30 * number,) * 3).save(path)
        made.append(Item(path, number % 3, number % 2 + 1))
    return made


def lists(indices: list[list[int]], matches: list[list[bool]]) -> RankedLists:
    places = torch.tensor(indices)
    return RankedLists(places, torch.where(places >= 0, 0.25, torch.nan), torch.tensor(matches))


def count(picture: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == color).all(-1).sum())


def test_ranked_lists_show_each_image_in_its_place_and_frame(items: list[Item]) -> None:
    picture = ranked_lists(items[:2], items, lists([[5, 3], [2, 4]], [[True, False], [False, True]]))
    pixels = np.asarray(picture)

    def middle(grey: int) -> tuple[int, int]:
        ys, xs = (pixels == grey).all(-1).nonzero()
        assert len(xs) > 1000
        return int(np.median(xs)), int(np.median(ys))

    at = {number: middle(20 + 30 * number) for number in range(6)}
    for query, first, second in ((0, 5, 3), (1, 2, 4)):
        assert at[query][0] < at[first][0] < at[second][0]
        assert max(at[n][1] for n in (query, first, second)) - min(at[n][1] for n in (query, first, second)) < 4
    assert at[0][1] < at[1][1]
    frames = {0: QUERY, 1: QUERY, 5: RIGHT, 3: WRONG, 2: WRONG}
    for number, color in {**frames, 4: RIGHT}.items():
        x, y = at[number]
        left = x - 40 - 2  # an image is 80 pixels wide, its frame 4 more
        assert tuple(pixels[y, left]) == color, number


def test_ticks_and_crosses_differ_without_colour(items: list[Item]) -> None:
    right, wrong = (
        np.asarray(ranked_lists(items[:1], items, lists([[5]], [[match]])).convert("L")) for match in (True, False)
    )
    frame = [np.asarray(Image.new("RGB", (1, 1), color).convert("L")).item() for color in (RIGHT, WRONG)]
    badge_right, badge_wrong = right == frame[0], wrong == frame[1]
    assert (badge_right != badge_wrong).sum() > 10


def test_places_without_an_image_stay_empty(items: list[Item]) -> None:
    picture = ranked_lists(items[:1], items, lists([[5, -1]], [[True, False]]))
    assert count(picture, WRONG) == 0
    assert count(picture, (20 + 30 * 5,) * 3) > 1000


def test_what_is_left_out_is_grey_in_its_place(items: list[Item]) -> None:
    Image.new("RGB", (32, 64), (250, 20, 20)).save(items[3].path)
    shown = lists([[5, 3], [2, -1]], [[True, False], [False, False]])
    left_out = torch.tensor([[False, True], [False, False]])
    picture = np.asarray(ranked_lists(items[:2], items, shown, left_out=left_out))
    assert not (picture == (250, 20, 20)).all(-1).any()  # its colour is gone
    plain = np.asarray(ranked_lists(items[:2], items, shown))
    ys, xs = (plain == (250, 20, 20)).all(-1).nonzero()
    y, x = int(np.median(ys)), int(np.median(xs))
    faded = picture[y, x]
    assert faded.max() - faded.min() <= 4 and 100 < faded.max() < 228
    assert tuple(picture[y, x - 42]) == LEFT_OUT and tuple(plain[y, x - 42]) == WRONG
    with pytest.raises(ValueError, match=r"left_out must have shape \[2, 2\], got \[1, 2\]"):
        ranked_lists(items[:2], items, shown, left_out=left_out[:1])


def test_distances_show_both_distributions_and_what_they_share() -> None:
    def drawn(same: list[int], different: list[int], overlap: float) -> np.ndarray:
        edges = np.linspace(0, 1, len(same) + 1)
        return np.asarray(
            distance_distributions(DistanceHistogram(edges, np.array(same), np.array(different), overlap, 1, 0, 0.5))
        )

    def middle(picture: np.ndarray, color: tuple[int, int, int]) -> float:
        near = np.abs(picture[150:400].astype(int) - color).max(-1) < 30
        return float(np.median(near.nonzero()[1]))

    picture = drawn([9, 1, 0, 0], [0, 0, 1, 9], 0.0)
    assert picture.shape == (450, 650, 3)
    assert middle(picture, (0x16, 0x96, 0x4B)) < middle(picture, (0xD0, 0x30, 0x2C))
    assert (picture != drawn([9, 1, 0, 0], [0, 1, 0, 9], 0.1)).any()


def test_search_results_show_each_picture_once() -> None:
    made = [Image.new("RGB", (32, 64), (20 + 30 * number,) * 3) for number in range(4)]
    rows = [((made[0], "query"), [Found(made[1], "a", 0.9), Found(made[2], "b", 0.8)]), ((made[3], "other"), [])]
    picture = search_results(rows)
    assert [count(picture, (20 + 30 * number,) * 3) for number in range(4)] == [80 * 160] * 4
    assert count(picture, QUERY) > 1000 and count(picture, RIGHT) == count(picture, WRONG) == 0
    known = search_results([(rows[0][0], [Found(made[1], "a", 0.9, True), Found(made[2], "b", 0.8, False)])], title="t")
    assert count(known, RIGHT) > 1000 and count(known, WRONG) > 1000
    with pytest.raises(ValueError, match="at least one query"):
        search_results([])


def test_tiles_keep_their_columns_and_text_its_ends() -> None:
    red, blue = Image.new("RGB", (10, 20), (255, 0, 0)), Image.new("RGB", (30, 5), (0, 0, 255))
    picture = tile_table([[red, blue], [blue]], gap=4, margin=2)
    assert picture.size == (2 + 30 + 4 + 30 + 2, 2 + 20 + 4 + 5 + 2)
    assert picture.getpixel((2, 2)) == (255, 0, 0) and picture.getpixel((36, 2)) == (0, 0, 255)
    assert picture.getpixel((2, 26)) == (0, 0, 255) and count(picture, (255, 0, 0)) == 200
    assert tile_table([[red]], title="a title").height == tile_table([[red]]).height + 28
    assert shorten("short", 12, 200) == "short"
    cut = shorten("0001_c1s1_000001_00.jpg", 12, 60)
    assert cut.startswith("0001") and cut.endswith("jpg") and "…" in cut and len(cut) < 15


def test_charts_as_svg_take_the_pages_colours_and_are_the_same_twice() -> None:
    cmc = np.linspace(0.62, 1, 30)
    histogram = DistanceHistogram(np.linspace(0, 1, 5), np.array([9, 1, 0, 0]), np.array([0, 1, 1, 9]), 0.1, 1, 0, 0.5)
    first, second = cmc_svg(cmc), distance_svg(histogram)
    assert first == cmc_svg(cmc) and second == distance_svg(histogram)
    for svg in (first, second):
        root = ElementTree.fromstring(svg)
        assert root.tag == "svg" and root.attrib["role"] == "img" and "http" not in svg and "<style" not in svg
        names = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert used <= set(names) and len(set(names)) == len(names) and not any("axes" in name for name in names)
    texts = [element.text for element in ElementTree.fromstring(first).iter("text")]
    assert {"62.0%", "100%", "rank"} <= set(texts) and "0%" not in texts
    assert "stroke: var(--accent)" in first and {"var(--same)", "var(--different)"} <= set(
        re.findall(r"var\(.*?\)", second)
    )
    assert "10 pairs" in second and "11 pairs" in second


def test_synthetic_people_are_drawn_a_row_each() -> None:
    config = SynthConfig(identities=6, cameras=2, height=32, width=16)
    one, two = (synthetic_people(config, people=people, scale=1) for people in (1, 2))
    assert one.width == 16 * (4 + 2 * 2) and two.height == one.height + 32


def test_notes_and_titles_are_drawn(items: list[Item]) -> None:
    shown = lists([[5]], [[True]])
    plain = ranked_lists(items[:1], items, shown)
    assert plain != ranked_lists(items[:1], items, shown, notes=["AP 50 %"])
    assert ranked_lists(items[:1], items, shown, title="Title").height > plain.height
    assert plain == ranked_lists(items[:1], items, shown)


def test_images_keep_their_shape(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("RGB", (60, 30), (9, 9, 9)).save(path)
    item = Item(path, 1, 1)
    picture = np.asarray(ranked_lists([item], [item], lists([[0]], [[True]])))
    ys = (picture == 9).all(-1).nonzero()[0]
    assert ys.max() - ys.min() + 1 == 40  # 80 wide, and so 40 high


def test_bad_ranked_lists_are_named(items: list[Item], tmp_path: Path) -> None:
    shown = lists([[5]], [[True]])
    with pytest.raises(ValueError, match="lists must hold one row for each query, 2 >= 1, got 1"):
        ranked_lists(items[:2], items, shown)
    with pytest.raises(ValueError, match="notes must hold one line for each query, 1, got 2"):
        ranked_lists(items[:1], items, shown, notes=["a", "b"])
    with pytest.raises(ValueError, match="height must be at least 16, got 3"):
        ranked_lists(items[:1], items, shown, height=3)
    with pytest.raises(ValueError, match=r"gone\.png must be a readable image"):
        ranked_lists([Item(tmp_path / "gone.png", 1, 1)], items, shown)


def test_curves_follow_their_points() -> None:
    rising = {"mAP": [(float(x), x / 10) for x in range(11)]}
    picture = curves(rising, title="t", x_label="epoch", y_label="mAP", percent=True, levels={"plain": 0.3})
    assert picture.size == (800, 450)
    assert picture == curves(rising, title="t", x_label="epoch", y_label="mAP", percent=True, levels={"plain": 0.3})
    assert picture != curves(rising, title="t", x_label="epoch", y_label="mAP", percent=True)
    blue = (np.asarray(curves(rising)).astype(int) - (0x2D, 0x5A, 0xC8)).__abs__().max(-1) < 8
    ys, xs = blue.nonzero()
    inside = xs > 200  # right of the legend
    assert np.corrcoef(xs[inside], ys[inside])[0, 1] < -0.9


def test_curves_leave_out_what_is_not_finite() -> None:
    clean = curves({"loss": [(1, 2.0), (3, 1.0)]})
    assert clean == curves({"loss": [(1, 2.0), (2, math.nan), (3, 1.0), (4, math.inf)]})
    assert curves({"loss": [(1, 2.0)], "empty": []}).size == clean.size
    with pytest.raises(ValueError, match=r"at least one finite point, got none in \['loss'\]"):
        curves({"loss": [(1, math.nan)]})


def test_cmc_curves() -> None:
    picture = cmc_curves({"one": np.linspace(0.2, 1, 50), "two": [0.5]}, title="CMC")
    assert picture.size == (650, 450)
    assert picture != cmc_curves({"one": np.linspace(0.3, 1, 50), "two": [0.5]}, title="CMC")
    with pytest.raises(ValueError, match="at least one curve"):
        cmc_curves({})
    for bad in ([], [[0.5]], [1.5], [math.nan]):
        with pytest.raises(ValueError, match=r"results\['bad'\] must be shares in \[0, 1\]"):
            cmc_curves({"bad": bad})


def test_pictures_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.png"
    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    save_picture(picture, path)
    assert Image.open(path).convert("RGB") == picture
    with pytest.raises(ValueError, match="path must end in a picture's suffix"):
        save_picture(picture, tmp_path / "deep" / "a.picture")

    def half(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        save_picture(picture.transpose(Image.Transpose.ROTATE_90), path)
    assert Image.open(path).convert("RGB") == picture
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_pyplot_is_left_alone() -> None:
    code = (
        "import sys; from dsa_fast.visual.charts import curves; curves({'a': [(0, 1)]}); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    done = run_fresh(code)
    assert done.returncode == 0, done.stderr


def test_overlay_is_hot_where_the_map_is() -> None:
    image = Image.new("RGB", (40, 80), (0, 0, 255))
    heat = torch.zeros(4, 2, dtype=torch.uint8)
    heat[0, 1] = 255
    picture = np.asarray(overlay(image, heat)).astype(int)
    assert picture.shape == (80, 40, 3)
    # Place (0, 1) of 4 x 2 is at half the width, on the upper border; the last column goes on to the right.
    assert (picture[1, [20, 30, 38], 0] > 150).all() and (picture[1, [20, 30, 38], 2] < 200).all()
    assert picture[1, 5, 0] < 60 and picture[20, 20, 0] < 60
    assert picture[70, 5].tolist() == [0, 0, 255]
    assert color_table().shape == (256, 4) and color_table()[0, 3] == 0
    with pytest.raises(ValueError, match="heat must be uint8 of shape"):
        overlay(image, heat.float())


def test_grid_shows_each_image_next_to_its_heat() -> None:
    image, heat = Image.new("RGB", (20, 40), (0, 0, 255)), torch.zeros(4, 2, dtype=torch.uint8)
    picture = activation_grid([[(image, heat, "a"), (image, heat, "b")], [(image, heat, "c")]], columns=1, height=40)
    blue = (np.asarray(picture) == (0, 0, 255)).all(-1).sum()
    assert blue == 3 * 2 * 20 * 40
    with pytest.raises(ValueError, match="rows must hold at least one image"):
        activation_grid([])


def test_letters_that_pillows_font_lacks_are_drawn() -> None:
    """Names of people in other alphabets. ASCII texts, and marks such as the middle dot, keep Pillow's font."""
    unknown = bytes(font(12).getmask("\uffff"))
    assert font(12) is font(12, "rank 1 · 0.021…") is font(12, "alice")
    for name in ("Zoë", "Łukasz", "Иван", "Ελένη"):
        assert all(bytes(font(12, name).getmask(letter)) != unknown for letter in name)
        assert font(12, name) is not font(12)
