"""The web report, as a file and in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsa_fast.data.people import Names, Person
from dsa_fast.evaluation import evaluate
from dsa_fast.evaluation.pair_distances import distance_histogram
from dsa_fast.evaluation.ranked_lists import (
    JUNK_IMAGE,
    RIGHT,
    SAME_CAMERA,
    WRONG,
    UnfilteredLists,
    unfiltered_lists,
)
from dsa_fast.visual.activation import color_table
from dsa_fast.visual.report import WrittenReport, write_report
from tests.evaluation.people import make_people, result_of

EVIL = "<script>document.title='broken'</script>{{data}}</script>"


def make_report(folder: Path, queries: int = 45, title: str = EVIL, **options: Any) -> WrittenReport:
    """A report of small pictures; query i has pid i % 3 + 1 and camera i % 3 + 1."""
    rng = np.random.default_rng(5)
    features, pids, camids, *gallery = make_people(rng, queries, 60)
    pids, camids = torch.arange(queries) % 3 + 1, torch.arange(queries) % 3 + 1
    pids[7] = 9  # of whom the gallery has no image
    made: list[list[Person]] = [[], []]
    for part, (labels, cameras) in enumerate(((pids, camids), (gallery[1], gallery[2]))):
        for i, (pid, camera) in enumerate(zip(labels.tolist(), cameras.tolist(), strict=True)):
            path = folder / "people" / f"{'qg'[part]}{i}<b><!--<script>&\"'.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 32), (5 * i % 256, 255 * part, 40 * pid % 256)).save(path)
            made[part].append(Person(path, None, pid, camera))
    everything = (features, pids, camids, *gallery)
    lists = unfiltered_lists(*everything, k=5)
    heat = [torch.from_numpy(rng.integers(0, 256, (len(part), 4, 2), dtype=np.uint8)) for part in made]
    result = evaluate(*everything)
    return write_report(
        folder / "out" / "report.html",
        *made,
        lists,
        result,
        histogram=distance_histogram(*everything),
        query_heat=heat[0],
        gallery_heat=heat[1],
        title=title,
        facts={"model": EVIL},
        **options,
    )


def blocks(page: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_report_holds_each_listed_image_once(tmp_path: Path) -> None:
    report = make_report(tmp_path)
    page = report.path.read_text(encoding="utf-8")
    data = blocks(page)
    index, thumbs = data["index"], [t for name, block in data.items() if name.startswith("images-") for t in block]
    heats = [h for name, block in data.items() if name.startswith("heat-") for h in block]
    assert report.embedded and report.size == report.path.stat().st_size
    assert report.images == len(thumbs) == len(heats) == len(index["images"]) and index["heat"] == [4, 2]
    names = [name for name, _, _ in index["images"]]
    assert len(set(names)) == len(names) and names[:45] == [f"q{i}<b><!--<script>&\"'.jpg" for i in range(45)]
    for number in (0, 44, 50):
        name, pid, _ = index["images"][number]
        color = Image.open(io.BytesIO(base64.b64decode(thumbs[number]))).convert("RGB").getpixel((8, 16))
        assert (
            np.abs(
                np.subtract(color, (5 * int(re.findall(r"\d+", name)[0]) % 256, 255 * (name[0] == "g"), 40 * pid % 256))
            ).max()
            < 12
        )
        assert len(base64.b64decode(heats[number])) == 8
    assert len(index["queries"]) == 45
    assert {kind for query in index["queries"] for _, _, kind in query["list"]} == {
        WRONG,
        RIGHT,
        SAME_CAMERA,
        JUNK_IMAGE,
    }


def test_report_escapes_and_asks_nobody(tmp_path: Path) -> None:
    page = make_report(tmp_path).path.read_text(encoding="utf-8")
    assert "<script>document" not in page and "&lt;script&gt;document.title" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=[\"']?\w", page) and "http://" not in page and "https://" not in page
    assert "innerHTML" not in page and "{{" not in page.replace("{{data}}", "", 3)


def test_report_is_the_same_twice_and_may_keep_images_in_a_folder(tmp_path: Path) -> None:
    first = make_report(tmp_path / "a").path.read_bytes()
    report = make_report(tmp_path / "b", images="folder")
    folder = report.path.with_name("report_images")
    files = sorted(folder.rglob("*.jpg"))
    assert not report.embedded and len(files) == report.images
    assert report.size == report.path.stat().st_size + sum(f.stat().st_size for f in files)
    # Written again with its images inside: the same page as ever, and the folder is gone.
    assert make_report(tmp_path / "b").path.read_bytes() == first
    assert [p.name for p in report.path.parent.iterdir()] == ["report.html"]


def test_report_leaves_a_strangers_folder_alone(tmp_path: Path) -> None:
    mine = tmp_path / "out" / "report_images" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    make_report(tmp_path)
    with pytest.raises(ValueError, match="report_images must be free for the report's images"):
        make_report(tmp_path, images="folder")
    assert mine.read_text() == "mine"


def test_report_limit_decides_where_images_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsa_fast.visual.report._EMBED_LIMIT", 1000)
    assert not make_report(tmp_path).embedded


def test_bad_reports_are_named_and_leave_nothing(tmp_path: Path) -> None:
    report = make_report(tmp_path, images="folder")
    before = report.path.read_bytes()
    image = Person(tmp_path / "gone.jpg", None, 1, 1)
    lists = UnfilteredLists(
        *(torch.zeros(1, 1, dtype=t) for t in (torch.int64, torch.float32, torch.int64)), torch.zeros(1)
    )
    with pytest.raises(ValueError, match=r"gone\.jpg must be a readable image"):
        write_report(report.path, [image], [image], lists, result_of([0.5]), images="folder")
    assert report.path.read_bytes() == before
    assert sorted(p.name for p in report.path.parent.iterdir()) == ["report.html", "report_images"]
    with pytest.raises(ValueError, match="lists must hold one row for each chosen query, 2 >= 1, got 1"):
        write_report(report.path, [image] * 2, [image], lists, result_of([0.5, 0.5]))
    with pytest.raises(ValueError, match="result must be of all 1 queries, got 2"):
        write_report(report.path, [image], [image], lists, result_of([0.5, 0.5]))
    with pytest.raises(ValueError, match="both be given"):
        write_report(report.path, [image], [image], lists, result_of([0.5]), query_heat=torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"chosen must be places of queries, 0\.\.0, got 3\.\.3"):
        write_report(report.path, [image], [image], lists, result_of([0.5]), chosen=[3])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, through selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not found or not driver:
        pytest.skip("no browser: needs chromium (or google-chrome) and chromedriver on the PATH")
    import tempfile

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = found
        flags = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-quic no-first-run disable-sync"
        flags += " disable-background-networking disable-component-update window-size=1300,900"
        for flag in flags.split():
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        try:
            started = webdriver.Chrome(options=options, service=Service(driver))
        except WebDriverException as error:
            pytest.skip(f"the browser does not start: {str(error).splitlines()[0]}")
        yield started
        started.quit()


#: WCAG's contrast of text and what is behind it: [[selector, ratio], ...].
CONTRAST = """(() => {
    const linear = x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
    const light = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(x => linear(x / 255));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = e => {
        for (; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(color) && color !== 'transparent') return color;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = ['h1', 'dt', '.tile span', 'figure p', '.bar label', 'output', '.legend', '.row h2 span', '.cell b',
        '.cell.left b', '.cell span:last-child', '.right .badge', '.wrong .badge', '.left .badge', '.badge.left',
        'button.plain'];
    return texts.map(selector => {
        const e = document.querySelector(selector), [a, b] = [getComputedStyle(e).color, behind(e)].map(light);
        return [selector, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
    });
})()"""


class Page:
    """A report in the browser."""

    #: The queries of the rows.
    ROWS = "[...document.querySelectorAll('.row')].map(r => Number(r.dataset.query))"

    def __init__(self, browser: Any, path: Path) -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.get(path.as_uri())

    def run(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")

    def wait(self, script: str, value: Any) -> None:
        """Waits until a script has a value. The browser closes dialogs, fires events and lays out a bit later."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60, 0.02).until(
            lambda _: self.run(script) == value, f"{script} must become {value}"
        )

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def put(self, field: str, value: str) -> None:
        self.browser.execute_script(
            "const e = $(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(e.type === 'search' ? 'input' : 'change'));",
            field,
            value,
        )

    def listed(self) -> list[int]:
        numbers: list[int] = self.run(self.ROWS)
        return numbers

    def seen(self) -> tuple[int, int]:
        """How many images of the page are decoded, and how many there are."""
        script = """
            const done = arguments[0], all = [...document.querySelectorAll('#rows img')];
            for (const image of all) image.loading = 'eager';
            const one = image => image.decode().then(() => image.naturalWidth > 0, () => false);
            Promise.all(all.map(one)).then(good => done([good.filter(x => x).length, all.length]));"""
        good, total = self.browser.execute_async_script(script)
        return good, total


@pytest.mark.parametrize("images", ["embed", "folder"])
def test_browser_shows_all_images_from_disk_without_complaint(browser: Any, tmp_path: Path, images: Any) -> None:
    page = Page(browser, make_report(tmp_path, images=images).path)
    assert browser.title == EVIL
    good, total = page.seen()
    assert good == total > 20 * 5
    assert page.listed() == list(range(20))
    assert page.run("performance.getEntriesByType('resource').every(e => /^(file|data):/.test(e.name))")
    assert browser.get_log("browser") == []


def test_browser_filters_sorts_and_pages(browser: Any, tmp_path: Path) -> None:
    report = make_report(tmp_path)
    queries = blocks(report.path.read_text(encoding="utf-8"))["index"]["queries"]
    page = Page(browser, report.path)
    page.run("$('next').click()")
    assert page.listed() == list(range(20, 40))
    page.run("$('last').click()")
    assert page.listed() == list(range(40, 45)) and page.run("$('next').disabled")
    assert page.run("$('where').textContent") == "41\u201345 of 45"
    page.put("per", "100")
    page.put("sort", "worst")
    worst = page.listed()
    precision = [queries[i]["ap"] if queries[i]["ap"] is not None else 2 for i in worst]
    assert precision == sorted(precision) and sorted(worst) == list(range(45))
    assert worst[-1] == 7 and "not counted" in page.run("document.querySelector('[data-query=\"7\"]').textContent")
    page.put("sort", "best")
    assert [precision[worst.index(i)] for i in page.listed()[:-1]] == sorted(precision[:-1], reverse=True)
    page.put("sort", "camera")
    assert page.listed() == sorted(range(45), key=lambda i: (i % 3, i == 7, i))
    page.put("sort", "pid")
    assert page.listed() == sorted(range(45), key=lambda i: (9 if i == 7 else i % 3 + 1, i))
    page.put("sort", "worst")
    page.put("show", "lost")
    lost = [i for i in worst[:-1] if all(kind != RIGHT for _, _, kind in queries[i]["list"])]
    assert page.listed() == lost and lost
    page.put("show", "successes")
    assert page.listed() == [i for i in worst if queries[i]["first"] == 1] != worst
    page.put("show", "failures")
    assert page.listed() == [i for i in worst if queries[i]["first"] > 1] != worst
    page.put("camera", "2")
    assert page.listed() == [i for i in worst if queries[i]["first"] > 1 and i % 3 == 1]
    address = browser.current_url
    assert Page(browser, report.path).listed() == list(range(20))
    browser.get(address)  # the address holds all of it
    page.wait(Page.ROWS, [i for i in worst if queries[i]["first"] > 1 and i % 3 == 1])
    page = Page(browser, report.path)
    page.put("per", "100")
    page.put("find", "3")
    assert page.listed() == [i for i in range(45) if i % 3 == 2]
    page.put("find", "q12<B>")
    assert page.listed() == [12]
    page.put("find", "nobody")
    assert page.listed() == [] and "No query" in page.run("$('rows').textContent")
    assert browser.get_log("browser") == []


def test_browser_calls_people_by_their_names(browser: Any, tmp_path: Path) -> None:
    called = {1: "Alice", 2: "bob<b>", 3: "12"}
    page = Page(browser, make_report(tmp_path, names=Names(called, has_cameras=False)).path)
    page.put("per", "100")
    first = page.run("document.querySelector('.row').textContent")
    assert first.startswith("Alice") and "camera" not in first and "pid" not in first
    assert page.run("document.querySelector('.row h2').firstChild.textContent") == "Alice"
    for text, rest in (("ali", 0), ("B<b>", 1), ("12", 2)):
        page.put("find", text)
        assert {i for i in range(45) if i % 3 == rest and i != 7} <= set(page.listed()) != set(range(45))
    page.put("find", "pid")  # nobody's name, except of him who has none
    assert page.listed() == []
    assert page.run("getComputedStyle($('camera-label')).display") == "none"
    assert page.run("[...$('sort').options].every(e => e.value !== 'camera')")
    assert "the query itself" in page.run("$('left-out').textContent")
    page = Page(browser, make_report(tmp_path, names=Names({}, {1: "door"})).path)
    assert page.run("[...$('camera').options].map(e => e.textContent)") == ["all", "door", "2", "3"]
    assert page.run("document.querySelector('.row h2').firstChild.textContent") == "pid 1, camera door"
    assert browser.get_log("browser") == []


def test_browser_keys(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, make_report(tmp_path).path)
    at = "[Number(document.activeElement.closest('.row')?.dataset.query), Number(document.activeElement.dataset.item)]"
    page.press("j")
    assert page.run(at) == [0, -1]
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert page.run(at) == [1, 1]
    page.press(Keys.ENTER)
    assert page.run("$('zoom').open") and page.run("$('zoom').querySelectorAll('img').length") == 2
    page.press(Keys.ARROW_RIGHT, Keys.ESCAPE)
    page.wait(at, [1, 2])
    assert not page.run("$('zoom').open")
    page.press(Keys.END)
    assert page.run("document.activeElement.nextElementSibling?.tagName !== 'BUTTON'")
    page.press("n")
    assert page.listed() == list(range(20, 40)) and page.run(at) == [20, -1]
    page.press(Keys.ARROW_UP)
    assert page.run(at) == [19, -1]
    page.press("f")
    assert page.run("$('show').value") == "failures"
    page.press("f", "w")
    assert page.run("$('show').value") == "all" and page.run("$('sort').value") == "worst"
    page.press("o")
    assert page.run("[...document.querySelectorAll('.cell.left')].every(e => !e.offsetParent)")
    page.press("/", "1", "2", "n")
    assert page.run("$('find').value") == "12n"
    page.press(Keys.ESCAPE, "?")
    assert page.run("$('keys').open")
    page.press(Keys.ESCAPE)
    page.wait("$('keys').open", False)
    # One stop of the tab key a row, also where it was an image that is now hidden.
    page.put("find", "")
    page.run("toggle('out', true)")
    page.run("document.querySelector('.cell.left').focus()")
    page.press("o")
    stops = "[...document.querySelectorAll('.row')].map(r => cells(r).filter(e => e.tabIndex === 0).length)"
    assert page.run(stops) == [1] * 20
    assert page.run("cells(document.activeElement.closest('.row'))[0] === document.activeElement")
    assert browser.get_log("browser") == []


def test_browser_paints_activation_maps(browser: Any, tmp_path: Path) -> None:
    report = make_report(tmp_path)
    heat = base64.b64decode(blocks(report.path.read_text(encoding="utf-8"))["heat-0"][0])
    page = Page(browser, report.path)
    assert page.run("getComputedStyle(document.querySelector('.row canvas')).display") == "none"
    page.press("h")
    assert page.run("getComputedStyle(document.querySelector('.row canvas')).display") == "block"
    canvas, image = "document.querySelector('.row canvas')", "document.querySelector('.row img')"
    assert page.run(f"[{canvas}.width, {canvas}.height]") == [3, 5]
    painted = np.array(page.run(f"[...{canvas}.getContext('2d').getImageData(0, 0, 3, 5).data]")).reshape(5, 3, 4)
    values = np.pad(np.frombuffer(heat, np.uint8).reshape(4, 2), ((0, 1), (0, 1)), mode="edge")
    wanted = color_table()[values].astype(int)
    assert (painted[..., 3] == wanted[..., 3]).all()
    solid = wanted[..., 3] > 60  # a canvas keeps the colour of clear pixels only roughly
    box, shot = (
        page.run(f"(b => [b.x, b.y, b.width, b.height])({e}.getBoundingClientRect())") for e in (canvas, image)
    )
    place = [(box[i] + (j + 0.5) * box[i + 2] / (3, 5)[i] - shot[i]) / shot[i + 2] for i, j in ((0, 1), (1, 2))]
    assert place == pytest.approx([1 / 2, 2 / 4], abs=0.02)  # place (2, 1) of 4 x 2 is in the image's middle
    assert solid.any() and np.abs(painted - wanted)[solid].max() <= 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_page_is_readable_in_light_and_dark_and_fits_a_phone(browser: Any, tmp_path: Path, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    try:
        page = Page(browser, make_report(tmp_path).path)
        low = [pair for pair in page.run(CONTRAST) if pair[1] < 4.5]
        assert low == []
        assert (page.run("getComputedStyle(document.documentElement).colorScheme") == "dark") == (scheme == "dark")
        page.run("$('theme').click()")
        assert (page.run("getComputedStyle(document.documentElement).colorScheme") == "dark") == (scheme == "light")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        page = Page(browser, make_report(tmp_path).path)
        page.wait("document.documentElement.scrollWidth", 390)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
