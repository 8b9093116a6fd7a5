"""Execute the notebooks and write each as a page into docs/notebooks/, with its pictures made small.

`python benchmarks/make_pages.py 00 03` does those whose names begin so. A notebook runs in a copy of the project, where
its exports stay. A widget is shown as its picture, that of its last state if it had none when it was displayed.
"""

import argparse
import base64
import hashlib
import html
import io
import json
import os
import re
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "notebooks"
WIDEST = 850  # pixels of a picture
WIDGET, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
STYLE = """
body { max-width: 1000px; margin: 2em auto; padding: 0 1em; font: 16px/1.5 system-ui, sans-serif; color: #222 }
pre { font: 13px/1.4 ui-monospace, monospace; overflow-x: auto; white-space: pre-wrap; margin: 0 }
.highlight { background: #f5f5f5; padding: .6em .8em; border-radius: 4px; margin: .6em 0 }
.output_area, .jp-OutputArea-child { margin: .4em 0; overflow-x: auto }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 8px; text-align: right }
tr:nth-child(even) { background: #f5f5f5 }
.page { color: #666; font-size: 14px; border-bottom: 1px solid #ddd; padding-bottom: .5em }
"""


def fingerprint(notebook):
    """Name what a notebook says and does: the kinds and sources of its cells."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def render(name):
    """Execute a notebook in a copy of the project, and write its page."""
    start, notebook = time.perf_counter(), nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    mark = fingerprint(notebook)
    with tempfile.TemporaryDirectory() as home:
        for part in ("vtc_lab", "notebooks", "data", "figures", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(home, part))
        os.environ["PYTHONPATH"] = home
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": f"{home}/notebooks"}}).execute()
        body = page(notebook).replace(home, "...")
    head = (
        f'<p class="page"><a href="../../notebooks/{name}.ipynb">{name}.ipynb</a> as it was executed. Its widgets are '
    )
    head += "pictures here; they live in JupyterLab (<code>make lab</code>).</p>"
    style = STYLE + HtmlFormatter().get_style_defs(".highlight")
    title = html.escape(notebook.cells[0].source.splitlines()[0].lstrip("# "))
    text = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="source" content="{mark}">'
    text += f"<title>{title}</title><style>{style}</style></head><body>{head}{body}</body></html>\n"
    PAGES.mkdir(exist_ok=True)
    (PAGES / f"{name}.html").write_text(text, encoding="utf-8")
    return f"{name}: {len(text) / 1e6:.2f} MB, {time.perf_counter() - start:.0f} s"


def page(notebook):
    """Return the body of a page, with links that lead from it to other pages."""
    state = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in map(lambda out: still(out, state), cell.outputs) if out]
    hidden = {f"exclude_{part}": True for part in ("anchor_links", "input_prompt", "output_prompt")}
    body, _ = HTMLExporter(template_name="basic", **hidden).from_notebook_node(notebook)
    body = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body)
    return body.replace('href="../docs/', 'href="../').replace('href="../figures/', 'href="../../figures/')


def still(output, state):
    """Return an output with small pictures and without widgets, None if nothing is left of it."""
    data = output.get("data", {})
    if WIDGET in data:
        shown = data.get("image/png") or picture_in(data[WIDGET]["model_id"], state)
        if not shown:  # a bar of progress
            return None
        data.clear()
        data["image/png"] = shown
    if "image/png" in data:
        output.metadata.pop("image/png", None)  # its width and height
        kind, small = smaller(base64.b64decode(data.pop("image/png")))
        data[kind] = base64.b64encode(small).decode()
    return output


def picture_in(model, state):
    """Return the largest picture in a widget and its children, in base64."""
    entry = state.get(model, {"state": {}})
    found = [buffer["data"] for buffer in entry.get("buffers", []) if entry["state"].get("_model_name") == "ImageModel"]
    children = entry["state"].get("children", [])
    found += [picture_in(child.removeprefix("IPY_MODEL_"), state) for child in children]
    return max(found, key=len, default="")


def smaller(data):
    """Return a picture as JPEG or as PNG of few colours, whichever is smaller."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.thumbnail((WIDEST, 10 * WIDEST))
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG", quality=70)
    picture.quantize(48).save(png, "PNG", optimize=True)
    kinds = {"image/jpeg": jpeg.getvalue(), "image/png": png.getvalue()}
    return min(kinds.items(), key=lambda kind: len(kind[1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[""])
    given = tuple(parser.parse_args().names)
    chosen = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.stem.startswith(given)]
    with ProcessPoolExecutor(2) as executor:
        for line in executor.map(render, chosen):
            print(line, flush=True)
