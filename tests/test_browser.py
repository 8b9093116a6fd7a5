"""The main job as a person does it: JupyterLab in a real browser, run the notebook, move a slider, export."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import browser
import nbformat
import pytest
from playwright.sync_api import Locator, Page, sync_playwright
from pypdf import PdfReader

import vtc_lab as vtc

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = browser.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM and "VTC_NEEDS_BROWSER" not in os.environ, reason=browser.MISSING),
]
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The server of `make lab` on a copy of the project, so that a test can write into notebooks/ and figures/."""
    assert CHROMIUM, browser.MISSING
    home = tmp_path_factory.mktemp("lab")
    for name in ("vtc_lab", "notebooks", "data", "pyproject.toml"):
        source, target = ROOT / name, home / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    quiet = "--no-browser --port=0 --ServerApp.port_retries=50 --ServerApp.token= --ServerApp.password= --ip=127.0.0.1"
    made = subprocess.run(["make", "-n", "lab", f"LAB_ARGS={quiet}"], cwd=ROOT, capture_output=True, text=True).stdout
    line = next(line for line in made.splitlines() if "jupyter lab" in line)
    command = [sys.executable, "-m", *shlex.split(line.partition("bin/")[2])]
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = {name: str(home / ".jupyter" / name) for name in places}
    environment = {**os.environ, **own, "PYTHONPATH": str(home)}
    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=home, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield home, _address(server, log)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _address(server: subprocess.Popen, log: Path) -> str:
    for _ in range(240):
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if found:
            try:
                urlopen(found[0] + "api", timeout=5)
                return found[0]
            except OSError:
                pass
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    raise AssertionError("JupyterLab did not start within two minutes:\n" + log.read_text())


@pytest.fixture(scope="module")
def page(lab):
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1500, "height": 1300})
        page.set_default_timeout(120_000)
        yield page
        chromium.close()


def _fingerprint(page: Page) -> str:
    """Hash of the first picture, which the browser can decode."""
    return page.evaluate(
        """async () => {
            const image = document.querySelector('.widget-image');
            await image.decode();
            const bytes = await (await fetch(image.src)).arrayBuffer();
            return String(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
        }"""
    )


def _until(condition, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def _open(page: Page, address: str) -> None:
    page.goto(address)  # which opens the first notebook, with the whole project in the file browser
    page.locator(".jp-DirListing-itemText", has_text="data").wait_for()
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()  # a click before the kernel is there goes unheard


def _ledger(page: Page) -> str:
    return page.locator(".vtc-head").first.inner_text()


def _kept(page: Page) -> int:
    return int(re.search(r"kept (\d+) of", _ledger(page))[1])


def _canvas(page: Page) -> str:
    return page.evaluate("document.querySelector('.vtc-strip canvas').toDataURL()")


def _inside(page: Page, *selectors: str) -> None:
    """All of these are seen without scrolling."""
    size = page.viewport_size
    for selector in selectors:
        box = page.locator(selector).first.bounding_box()
        assert box and box["x"] >= 0 and box["y"] >= 0, (selector, box)
        assert box["x"] + box["width"] <= size["width"] and box["y"] + box["height"] <= size["height"], (selector, box)


def _contrast(page: Page, selector: str) -> float:
    """Contrast of a text with the first background behind it, as WCAG defines it."""
    text, ground = page.evaluate(
        """selector => {
            let node = document.querySelector(selector);
            const text = getComputedStyle(node).color;
            const ground = () => getComputedStyle(node).backgroundColor;
            while (node.parentElement && ground() === "rgba(0, 0, 0, 0)") node = node.parentElement;
            return [text, ground()];
        }""",
        selector,
    )

    def light(colour: str) -> float:
        parts = [int(float(part)) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted([light(text), light(ground)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def _ratio(page: Page, part: str) -> Locator:
    """The "handle" of the ratio slider, or its number "box"."""
    slider = page.locator(".widget-hslider", has_text=re.compile("^ratio"))
    return slider.locator(".noUi-handle") if part == "handle" else slider.locator("xpath=..").locator("input").last


def _opacity(page: Page) -> float:
    return float(page.evaluate("getComputedStyle(document.querySelector('.vtc-strips')).opacity"))


def _fold(page: Page, name: str) -> None:
    page.locator(".jupyter-widget-Collapse-header", has_text=name).click()


def test_the_workbench_shows_everything_at_once_and_answers_the_mouse(lab, page, tmp_path):
    home, address = lab
    page.set_viewport_size({"width": 1440, "height": 900})
    _open(page, address)
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    _until(lambda: "kept 392 of 3136 tokens" in _ledger(page), "the first picture at ratio 8")
    if page.get_by_role("button", name="No", exact=True).count():  # JupyterLab's question about news
        page.get_by_role("button", name="No", exact=True).click()
    page.locator(".vtc-curve path.vtc-now").first.wait_for()
    parts = (
        ".widget-hslider",
        ".vtc-picker",
        ".vtc-strips",
        ".vtc-curve svg",
        ".vtc-bars svg",
    )
    _inside(page, *parts)
    _shoot(page, "_1440_light")
    unclear = page.locator("[title=null]:visible, [title=undefined]:visible")
    assert unclear.count() == 0, [each.evaluate("node => node.outerHTML") for each in unclear.all()]

    # A patch says where it went, and its group lights up.
    clip = vtc.read_clip("data/clips/bigbuckbunny.mp4", frames=16)
    reduced = vtc.reduce(vtc.load_encoder("efficientnet-lite0").encode(clip), "lftr", ratio=8)
    kept, merged = reduced.kept[0].nonzero()[0].tolist(), ((reduced.assign.view(reduced.grid) >= 0) & ~reduced.kept)
    t, y, x = merged.nonzero()[0].tolist()
    first = page.locator(".vtc-top").first
    box = page.evaluate(
        "(() => { const c = document.querySelector('.vtc-top'); return [c.clientWidth, c.clientHeight]; })()"
    )
    columns = round(box[0] / 88)  # tiles of 84 and a gap of 4
    wide, tall = (box[0] + 4) / columns, box[1] / 2
    tile = wide - 4, round((wide - 4) * clip.frames.shape[1] / clip.frames.shape[2])

    def point(t: int, y: int, x: int) -> str:
        left, top = t % columns * wide, t // columns * tall
        first.hover(position={"x": left + (x + 0.5) * tile[0] / 14, "y": top + (y + 0.5) * tile[1] / 14})
        return page.locator(".vtc-tip").inner_text()

    lit = page.evaluate("document.querySelector('.vtc-top').toDataURL()")
    told, facts = point(t, y, x), reduced.explain(t, y, x)
    at, ay, ax = facts["anchor"]
    assert f"merged into frame {at + 1}, row {ay + 1}, column {ax + 1}, a token of {len(facts['members'])}" in told
    assert page.evaluate("document.querySelector('.vtc-top').toDataURL()") != lit
    assert "kept" in point(0, *kept)
    page.mouse.move(5, 5)

    # A click on the curve sets the ratio, in the number box too.
    before = _canvas(page)
    curve = page.locator(".vtc-curve svg").first
    size = curve.bounding_box()
    curve.click(position={"x": size["width"] * 0.72, "y": size["height"] * 0.4})
    _until(lambda: "kept 392" not in _ledger(page), "another ratio after the click")
    _until(lambda: _canvas(page) != before, "another picture")
    count = _kept(page)
    ratio = float(_ratio(page, "box").input_value())
    assert count == round(3136 / ratio) and 10 < ratio < 40

    # The arrow keys of the slider; the time from key to picture.
    handle = _ratio(page, "handle")
    times = [page.evaluate(_KEY_TO_PICTURE, handle.element_handle()) for _ in range(20)]
    print(
        f"slider to picture in the browser: 95th percentile {sorted(times)[18]:.0f} ms, median {sorted(times)[10]:.0f}"
    )
    assert sorted(times)[10] < 500

    # Play, a frame enlarged, and back.
    page.get_by_role("button", name="play").click()
    _until(lambda: "frame 3 of 16" in page.locator(".vtc-bar").inner_text(), "the third frame")
    page.get_by_role("button", name="pause").click()
    assert page.locator(".vtc-top").first.bounding_box()["width"] > 200
    page.get_by_role("button", name="all frames").click()
    assert "16 frames" in page.locator(".vtc-bar").inner_text()

    # The same by keys alone: walk over the patches, enlarge a frame, leave it.
    page.locator(".vtc-views").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "PageDown"):
        page.keyboard.press(key)
    assert page.locator(".vtc-tip").inner_text().startswith("frame 2, row 3, column 2 (")
    page.keyboard.press("Enter")
    assert "frame 2 of 16" in page.locator(".vtc-bar").inner_text()
    page.keyboard.press("Escape")
    assert "16 frames" in page.locator(".vtc-bar").inner_text() and not page.locator(".vtc-tip").is_visible()

    # Another encoder has other heat maps, of the same frames.
    def rank() -> str:
        page.locator(".vtc-views").first.focus()
        page.keyboard.press("ArrowRight")
        told = re.search(r"significance (\S+)", page.locator(".vtc-tip").inner_text())[1]
        page.keyboard.press("Escape")
        return told

    of_lite, ledger = rank(), _ledger(page)
    _fold(page, "Encoder, model, files")
    encoder = page.locator(".widget-dropdown", has_text="encoder").locator("select")
    encoder.select_option("pixels")
    _until(lambda: rank() != of_lite, "the significance of pixels")
    encoder.select_option("efficientnet-lite0")
    _until(lambda: (rank(), _ledger(page)) == (of_lite, ledger), "the first picture")


# Presses the right arrow on a slider and waits for the next painted frame after the picture's line has changed.
_KEY_TO_PICTURE = """handle => new Promise(done => {
    const head = document.querySelector('.vtc-head'), start = performance.now();
    const watch = new MutationObserver(() => {
        watch.disconnect();
        requestAnimationFrame(() => done(performance.now() - start));
    });
    watch.observe(head, {childList: true});
    handle.focus();
    handle.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', keyCode: 39, bubbles: true}));
})"""


def test_a_sample_is_asked_and_the_answer_follows_the_slider(page):
    """Runs on the page that the test before left open."""
    _fold(page, "Question")
    menu = page.locator(".widget-dropdown", has_text="sample").locator("select")
    label = next(text for text in menu.locator("option").all_inner_texts() if text.startswith("count:"))
    menu.select_option(label=label)
    _until(lambda: page.locator(".vtc-answer .vtc-row").count() == 3, "the answers", 120)
    rows = page.locator(".vtc-answer .vtc-row").all_inner_texts()
    assert "everything" in rows[0] and "lftr" in rows[1] and "uniform" in rows[2]
    assert page.get_by_text("right answer:").count() == 1
    handle = _ratio(page, "handle")
    before = _kept(page)
    handle.focus()
    for _ in range(6):
        handle.press("ArrowLeft")
    _until(lambda: _kept(page) > before, "more tokens")
    _until(lambda: f"lftr, {_kept(page)} tokens" in page.locator(".vtc-answer").inner_text(), "the answer")
    question = page.locator(".widget-text", has_text="question").locator("input")
    question.fill("how many zebras appear ?")
    question.press("Enter")
    page.get_by_text("the model does not know 'zebras'").wait_for()
    assert page.locator(".vtc-error").count() == 0


def test_bad_input_is_said_beside_the_field_and_the_last_good_picture_is_dimmed(page):
    before, ledger = _canvas(page), _ledger(page)
    box = _ratio(page, "box")
    good = box.input_value()
    box.fill("0.5")
    box.press("Enter")
    error = page.locator(".vtc-error", has_text="ratio is 0.5; it must be a number from 1")
    error.wait_for()

    def below() -> bool:  # the column is laid out anew around the message
        places = [each.bounding_box() for each in (box, error)]
        return all(places) and 0 < places[1]["y"] - places[0]["y"] < 60

    _until(below, "the message below the slider")
    assert _canvas(page) == before and _ledger(page) == ledger
    _until(
        lambda: page.evaluate("getComputedStyle(document.querySelector('.vtc-strips')).opacity") == "0.35", "dimming"
    )
    box.fill("10")
    box.press("Enter")
    _until(lambda: _ledger(page) != ledger, "the picture at 10x")
    page.wait_for_timeout(500)  # for the slider, which stands at the nearest of its steps
    assert box.input_value() == "10" and page.get_by_text("ratio=10.0").is_visible(), "what was typed stays"
    box.fill(good)
    box.press("Enter")
    _until(lambda: page.locator(".vtc-error").count() == 0, "the end of the message")
    _until(
        lambda: page.evaluate("getComputedStyle(document.querySelector('.vtc-strips')).opacity") == "1", "the picture"
    )


def _theme(page: Page, name: str) -> None:
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.get_by_text("Theme", exact=True).hover()
    page.get_by_role("menuitem", name=f"JupyterLab {name}", exact=True).click()
    _until(lambda: page.locator(f"body[data-jp-theme-light={str(name == 'Light').lower()}]").count() == 1, name)
    _until(lambda: page.locator("#jupyterlab-splash").count() == 0, "the end of the change")


def test_the_dark_theme_is_readable_and_the_figure_comes_out_at_column_width(lab, page):
    home, _ = lab
    _theme(page, "Dark")
    for selector in (".vtc-head", ".vtc-curve h4", ".vtc-picker label", ".vtc-picker select", ".vtc-answer small"):
        _until(lambda selector=selector: _contrast(page, selector) >= 4.5, f"the contrast of {selector}", 5)
    _shoot(page, "_1440_dark")
    _fold(page, "Export")
    page.locator(".widget-dropdown", has_text="venue").locator("select").select_option("cvpr")
    page.locator(".widget-dropdown", has_text="width").locator("select").select_option("column")
    page.get_by_role("button", name="Export").click()
    page.get_by_text("wrote figures/my_figure").first.wait_for()
    page.locator(".vtc-out img").wait_for()
    assert "\\includegraphics[width=\\columnwidth]{figures/my_figure.pdf}" in page.locator(".vtc-out").inner_text()
    document = PdfReader(home / "figures" / "my_figure.pdf")
    assert len(document.pages) == 1 and float(document.pages[0].mediabox.width) == pytest.approx(3.281 * 72, abs=0.1)
    kept = re.search(r"kept \d+ of \d+ tokens", _ledger(page))[0]
    assert kept in " ".join(document.pages[0].extract_text().split())
    with page.expect_popup() as opened:
        page.locator(".vtc-out a", has_text=".png").click()
    assert "my_figure.png" in opened.value.url
    opened.value.close()
    for suffix in ("svg", "png", "csv", "json"):
        assert (home / "figures" / f"my_figure.{suffix}").stat().st_size > 100


def test_it_is_usable_at_1024_by_768(page):
    page.set_viewport_size({"width": 1024, "height": 768})
    _until(lambda: page.locator(".vtc-strips").bounding_box()["width"] < 500, "a narrower picture")
    _shoot(page, "_1024_dark")
    strips, column = page.locator(".vtc-strips").bounding_box(), page.locator(".vtc-picker").bounding_box()
    assert strips["x"] > column["x"] + column["width"] and strips["x"] + strips["width"] <= 1024
    assert strips["width"] > 250
    if "VTC_SCREENSHOT" in os.environ:
        _theme(page, "Light")
        _shoot(page, "_1024_light")


def _progress(page: Page) -> tuple[int, int]:
    """Settings of clips that are done, and all of them, as the ablation panel says it."""
    found = re.search(r"(\d+) of (\d+) settings of clips", page.locator(".vtc-progress").first.inner_text())
    return tuple(map(int, found.groups())) if found else (0, 0)


def test_an_ablation_fills_in_stops_and_comes_back_at_once(lab, page):
    home, address = lab
    page.set_viewport_size({"width": 1500, "height": 1300})
    short = [s for s in vtc.read_samples() if s["frames"] == 8 and s["kind"] in ("direction", "state")]
    (home / "data" / "short.jsonl").write_text("\n".join(map(json.dumps, short)))
    call = "vtc.ablate(samples='data/short.jsonl', clips=40, ratios=[1, 8, 16], results='data/results/browser.sqlite')"
    cell = f"import vtc_lab as vtc\n\n{call}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)], metadata=kernel)
    nbformat.write(notebook, home / "notebooks" / "ablation.ipynb")
    page.goto(f"{address}lab/tree/notebooks/ablation.ipynb?reset")
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("nothing of this has been run yet; press Run").wait_for()
    run, stop = (page.locator(".widget-button", has_text=name) for name in ("Run", "Stop"))
    picture = page.locator(".widget-image")
    assert stop.is_disabled() and not picture.is_visible()

    run.click()
    picture.wait_for()
    first, early = _fingerprint(page), _progress(page)
    _until(lambda: early[0] < _progress(page)[0] < _progress(page)[1], "progress", 120)
    _until(lambda: "left" in page.locator(".vtc-progress").inner_text(), "the time left")
    _until(lambda: _fingerprint(page) != first, "curves that fill in", 120)
    _until(lambda: _progress(page)[0] > 36, "the first three clips", 120)
    _shoot(page, "_running")
    measure = page.locator(".widget-dropdown", has_text="show").locator("select")
    before = _fingerprint(page)
    measure.select_option(label="answers flipped (%)")
    page.get_by_text("best answers flipped (%)").wait_for()
    _until(lambda: _fingerprint(page) != before, "the curves of another measure")
    assert not stop.is_disabled(), "the run goes on while another measure is shown"
    measure.select_option(label="accuracy (%)")
    page.get_by_text("best accuracy (%)").wait_for()

    stop.click()
    page.get_by_text("Run does the rest").wait_for()
    done, total = _progress(page)
    assert 36 < done < total == 480 and stop.is_disabled()
    stopped = _fingerprint(page)

    clips = page.locator(".widget-text", has_text="clips").locator("input")
    clips.fill("2")
    clips.press("Enter")
    _until(lambda: _progress(page) == (24, 24), "the first two clips, which are done")
    _until(lambda: _fingerprint(page) != stopped, "the curves of two clips")
    clips.fill("40")
    clips.press("Enter")
    _until(lambda: (_fingerprint(page), _progress(page)) == (stopped, (done, total)), "the earlier curves", 10)

    direction = page.locator(".widget-toggle-button", has_text="direction")
    direction.click()
    _until(lambda: _progress(page)[0] < done, "one kind of question only")
    direction.click()
    _until(lambda: _fingerprint(page) == stopped, "all kinds again", 10)
    page.get_by_role("button", name="Export").click()
    page.get_by_text("wrote figures/my_ablation").wait_for()
    assert (home / "figures" / "my_ablation_table.tex").read_text().count("\\\\") > 4
    assert page.locator(".vtc-error").count() == 0
    _shoot(page, "_ablation")


def test_stop_is_heard_while_the_cells_of_a_notebook_run(lab, page):
    """On the first message of a fresh session. What was typed last counts, although no Enter was pressed."""
    page.goto(f"{lab[1]}lab/tree/notebooks/04_video_qa_ablations.ipynb?reset")
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    run, stop = (page.locator(".widget-button", has_text=name).first for name in ("Run", "Stop"))
    stop.click()  # which waits for the button and for nothing else
    page.get_by_text("Run does the rest").first.wait_for(timeout=3000)
    assert page.locator(".jp-InputPrompt", has_text="[*]").count() > 3, "cells are running"
    assert stop.is_disabled()
    page.locator(".widget-text", has_text="clips").locator("input").first.fill("25")
    run.click()
    _until(lambda: _progress(page)[1] == 25 * 12, "a run on 25 clips of 4 methods at 3 ratios", 120)
    stop.click()


def _shoot(page: Page, name: str) -> None:
    if "VTC_SCREENSHOT" in os.environ:
        page.add_style_tag(content=".Toastify { display: none }")  # JupyterLab asks about news
        page.screenshot(path=os.environ["VTC_SCREENSHOT"].replace(".png", f"{name}.png"))


_EVIL = "<img src=x onerror=window.hit=1>"
_HOSTILE = f"""
import dataclasses, os, shutil
import vtc_lab as vtc

evil = {_EVIL!r}
text = evil + "<script>window.hit=2</" + r"script> $\\input{{x}}$ \u202eleft\u202c"
os.makedirs(evil, exist_ok=True)
for name in (evil + ".mp4", os.fsdecode(b"\\xff.mp4")):
    shutil.copy("../data/clips/dog.mp4", os.path.join(evil, name))

@vtc.method(name=evil)
def reducer(tokens, budget):
    return dataclasses.replace(vtc.reduce(tokens, "uniform", ratio=tokens.total / budget), notes=(text,))

@vtc.method(name="fails")
def failing(tokens, budget):
    raise vtc.VTCError(text)

clip = evil + "/" + evil + ".mp4"
panel = vtc.explore(folder=evil, clip=clip, frames=8, encoder="video-qa model", method=evil, compare=["fails"],
                    question=text, ratio=4, figure="hostile")
panel
"""
_ABLATED = """
import json
rows = [{"clip": os.path.abspath(clip), "question": text, "answer": text, "kind": text, "candidates": ["red", text]}]
open("hostile.jsonl", "w").write(json.dumps(rows[0]))
vtc.ablate(samples="hostile.jsonl", methods=[evil, "fails"], clips=1, ratios=[2], results="hostile.db")
"""


def test_no_text_of_a_user_becomes_a_part_of_the_page(lab, page):
    """Names of clips, folders, methods and kinds, questions, notes, errors and exported files."""
    home, address = lab
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(cell) for cell in (_HOSTILE, _ABLATED)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), home / "notebooks" / "hostile.ipynb")
    page.goto(f"{address}lab/tree/notebooks/hostile.ipynb?reset")
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".vtc-answer .vtc-row").nth(1).wait_for()
    assert f"fails: {_EVIL}" in page.locator(".vtc-said").first.inner_text(), "the message"
    assert _EVIL in page.locator(".vtc-head").first.inner_text(), "the strip"
    assert _EVIL in page.locator(".vtc-answer").inner_text(), "the answer"
    assert _EVIL in page.locator(".vtc-picker").first.inner_text(), "the menu"
    page.locator(".vtc-top").first.hover(position={"x": 10, "y": 10})
    assert page.locator(".vtc-tip").first.inner_text().startswith("frame 1")
    _fold(page, "Export")
    page.get_by_role("button", name="Export").first.click()
    page.locator(".vtc-out img").wait_for()
    assert _EVIL in page.locator(".vtc-out").inner_text()
    page.locator(".widget-button", has_text="Run").click()
    page.get_by_text("best accuracy").wait_for()
    for made in ("img[src=x]", "script:text('hit')"):
        assert page.locator(made).count() == 0, made
    assert page.evaluate("window.hit") is None
