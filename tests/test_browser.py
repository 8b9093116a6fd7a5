"""The main job as a person does it: JupyterLab in a real browser, run the notebook, move a slider, export."""

import hashlib
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
from playwright.sync_api import Page, sync_playwright
from pypdf import PdfReader

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
    """Hash of the pixels of the first picture, as the browser decoded them."""
    data = page.evaluate(
        """async () => {
            const image = document.querySelector('.widget-image');
            await image.decode();
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext('2d').drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )
    return hashlib.sha256(data.encode()).hexdigest()


def _until(condition, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def _ledger(page: Page) -> str:
    return page.locator(".widget-html").filter(has_text="kept").first.inner_text()


def test_a_person_opens_the_workbench_moves_a_slider_and_exports(lab, page, tmp_path):
    home, address = lab
    page.goto(address)  # which opens the first notebook, with the whole project in the file browser
    page.locator(".jp-DirListing-itemText", has_text="data").wait_for()
    page.locator(".jp-RenderedMarkdown h1", has_text="What does a video language model lose").wait_for()
    page.get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for()  # a click before the kernel is there goes unheard
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    try:
        page.locator(".widget-image").first.wait_for()
    except Exception:
        page.screenshot(path=home / "no_picture.png")
        raise
    _until(lambda: "kept 392 of 3136 tokens" in _ledger(page), "the first picture at ratio 8")
    before = _fingerprint(page)

    handle = page.locator(".widget-inline-hbox", has_text=re.compile("^ratio")).locator(".noUi-handle")
    handle.focus()
    for _ in range(8):
        handle.press("ArrowRight")
    _until(lambda: "10.6x" in _ledger(page), "the ledger after eight steps of the slider, from 8 to 10.6")
    _until(lambda: _fingerprint(page) != before, "new pixels after the slider moved")
    kept, total = map(int, re.search(r"kept (\d+) of (\d+) tokens", _ledger(page)).groups())
    assert kept < 392 and total == 3136

    if "VTC_SCREENSHOT" in os.environ:
        page.screenshot(path=os.environ["VTC_SCREENSHOT"])

    page.get_by_role("button", name="Export").click()
    page.get_by_text("wrote figures/my_figure").wait_for()
    document = PdfReader(home / "figures" / "my_figure.pdf")
    assert len(document.pages) == 1
    assert f"kept {kept} of 3136 tokens" in document.pages[0].extract_text()
    for suffix in ("svg", "png", "csv", "json"):
        assert (home / "figures" / f"my_figure.{suffix}").stat().st_size > 100


def test_bad_input_is_said_in_the_widget_and_the_last_good_picture_stays(page):
    """Runs on the page that the test before left open."""
    before, ledger = _fingerprint(page), _ledger(page)
    slider = page.locator(".widget-inline-hbox", has_text=re.compile("^ratio"))
    box = page.locator(".widget-hbox").filter(has=slider).last.locator("input[type=number]")
    box.fill("0.5")
    box.press("Enter")
    page.locator(".vtc-error", has_text="ratio is 0.5; it must be a number from 1").wait_for()
    assert _fingerprint(page) == before
    assert _ledger(page) == ledger
    box.fill("8")
    box.press("Enter")
    _until(lambda: "kept 392 of 3136" in _ledger(page), "recovery")
    _until(lambda: page.locator(".vtc-error").count() == 0, "the end of the message")


def test_a_sample_is_chosen_and_asked(page):
    """Runs on the same page: pick a sample, ask, read the answer with everything and with what was kept."""
    menu = page.locator(".widget-dropdown", has_text="sample").locator("select")
    label = next(text for text in menu.locator("option").all_inner_texts() if text.startswith("count:"))
    menu.select_option(label=label)
    _until(lambda: "tokens" in _ledger(page) and "3136" not in _ledger(page), "the sample's clip", 120)
    page.get_by_role("button", name="Ask").click()
    page.locator(".vtc-answers").wait_for()
    rows = page.locator(".vtc-answers tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows[1:]] == ["everything", "lftr", "uniform"]
    assert page.get_by_text("The right answer is").count() == 1
    assert page.locator(".vtc-error").count() == 0
    if "VTC_SCREENSHOT" in os.environ:
        page.screenshot(path=os.environ["VTC_SCREENSHOT"].replace(".png", "_ask.png"))


def _progress(page: Page) -> tuple[int, int]:
    """Settings of clips that are done, and all of them, as the ablation panel says it."""
    found = re.search(r"(\d+) of (\d+) settings of clips", page.locator(".vtc-progress").inner_text())
    return tuple(map(int, found.groups())) if found else (0, 0)


def test_an_ablation_fills_in_stops_and_comes_back_at_once(lab, page):
    home, address = lab
    call = "vtc.ablate(clips=40, ratios=[1, 2, 4], results='data/results/browser.sqlite')"
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
    assert _fingerprint(page) != before and not stop.is_disabled(), "the run goes on while another measure is shown"
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
    assert _fingerprint(page) != stopped
    clips.fill("40")
    clips.press("Enter")
    _until(lambda: (_fingerprint(page), _progress(page)) == (stopped, (done, total)), "the earlier curves", 10)

    order = page.locator(".widget-toggle-button", has_text="order")
    order.click()
    _until(lambda: _progress(page)[0] < done, "one kind of question only")
    order.click()
    _until(lambda: _fingerprint(page) == stopped, "all kinds again", 10)
    page.get_by_role("button", name="Export").click()
    page.get_by_text("wrote figures/my_ablation").wait_for()
    assert (home / "figures" / "my_ablation_table.tex").read_text().count("\\\\") > 4
    assert page.locator(".vtc-error").count() == 0
    _shoot(page, "_ablation")


def _shoot(page: Page, name: str) -> None:
    if "VTC_SCREENSHOT" in os.environ:
        page.screenshot(path=os.environ["VTC_SCREENSHOT"].replace(".png", f"{name}.png"))
