"""How much memory a kernel takes whose notebook stays open for a week.

A kernel is started and the explorer opened in it, as JupyterLab does. Slider moves, changes of clip (each with another
method, whose options get controls of their own) and exports are asked for by the same comm messages that the browser
sends, one at a time, a tenth of each in turn. Another tenth, with every clip and method, is done before as
warm-up. Prints the kernel's memory, its widgets, and the latency of the slider; `--json` writes them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("pool", "dtd", "random", "lftr")
OPEN = """
import os, tempfile, vtc_lab as vtc
from ipywidgets import Widget
from vtc_lab.figures import export
folder = tempfile.TemporaryDirectory()
export.FOLDER = folder.name
panel = vtc.explore(**{state})
controls = {{**panel._controls, "slider": panel._controls["ratio"].children[0], "image": panel._strips}}
controls |= {{"export": panel._export, "message": panel._message}}
"""
FACTS = {
    "pid": "os.getpid()",
    "ids": "{name: control.model_id for name, control in controls.items()}",
    "clip": "controls['clip'].index",
    "clips": "len(controls['clip'].options)",
    "others": "controls['methods'].value[1:]",
}


class Life:
    """An explorer in a kernel of its own, and what was measured of it."""

    def __init__(self, **state: object) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(ROOT))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.facts = self.ask(OPEN.format(state=state), FACTS)
        self.changes = self.facts["clip"]
        self.times: list[float] = []

    def ask(self, code: str, values: dict[str, str]) -> dict:
        """Run code and return the values of expressions."""
        reply = self.client.execute_interactive(code, user_expressions=values, timeout=120)["content"]
        assert reply["status"] == "ok", reply
        return {key: eval(value["data"]["text/plain"]) for key, value in reply["user_expressions"].items()}

    def widgets(self) -> int:
        return self.ask("", {"open": "len(Widget.get_manager_state()['state'])"})["open"]

    def resident(self) -> float:
        """Return the memory of the kernel, in MB."""
        lines = Path(f"/proc/{self.facts['pid']}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def send(self, control: str, data: dict, awaited: str, words: str = "") -> None:
        """Send a message as the browser does, and wait until a widget has drawn anew, or says these words."""
        ids = self.facts["ids"]
        self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": ids[control], "data": data}))
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            content = message["content"]
            if message["msg_type"] != "comm_msg" or content["data"].get("method") != "update":
                continue
            state = content["data"]["state"]
            said = state.get("value", "")
            if content["comm_id"] == ids["message"] and "press Export again" in said:
                return self.send(control, data, awaited, words)
            assert content["comm_id"] != ids["message"] or "vtc-error" not in said, said
            if content["comm_id"] == ids[awaited] and (words in said if words else "drawn" in state):
                return None

    def move(self, number: int) -> None:
        ratio = 2 ** (1 + (number * 0.65) % 2)  # 2x to 8x, never the same twice in a row
        start = time.perf_counter()
        self.send("slider", _set(value=ratio), "image")
        self.times.append(1000 * (time.perf_counter() - start))

    def change(self) -> None:
        self.changes += 1
        self.send("clip", _set(index=self.changes % self.facts["clips"]), "image")
        self.send("methods", _set(value=[METHODS[self.changes % len(METHODS)], *self.facts["others"]]), "image")

    def export(self) -> None:
        self.send("export", {"method": "custom", "content": {"event": "click"}}, "message", "wrote")

    def go_on(self, moves: int, changes: int, exports: int) -> None:
        for number in range(moves):
            self.move(number)
        for _ in range(changes):
            self.change()
        for _ in range(exports):
            self.export()

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def _set(**values: object) -> dict:
    return {"method": "update", "state": values, "buffer_paths": []}


def measure(moves: int, changes: int, exports: int, parts: int = 10, **state: object) -> dict[str, float]:
    """Return megabytes, widgets and milliseconds of a kernel in which all of this was done, in equal parts."""
    life = Life(**state)
    try:
        facts: dict = {"open_mb": life.resident()}
        life.go_on(moves // parts, max(changes // parts, 2 * life.facts["clips"]), max(exports // parts, 2))
        life.times.clear()
        facts |= {"warm_mb": life.resident(), "warm_widgets": life.widgets()}
        print(f"warm: {facts['warm_mb']:.1f} MB", flush=True)
        for part in range(1, parts + 1):
            life.go_on(moves // parts, changes // parts, exports // parts)
            print(f"{part} of {parts}: {life.resident():.1f} MB", flush=True)
        few = len(life.times) // parts
        first, last = statistics.median(life.times[:few]), statistics.median(life.times[-few:])
        facts |= {"end_mb": life.resident(), "end_widgets": life.widgets(), "first_ms": first, "last_ms": last}
        life.ask("panel.close()", {})
        return facts | {"closed_widgets": life.widgets()}
    finally:
        life.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=2000)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--exports", type=int, default=200)
    parser.add_argument("--state", type=json.loads, default={}, help="settings of the explorer, as JSON")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts = measure(arguments.moves, arguments.changes, arguments.exports, **arguments.state)
    grown = facts["end_mb"] - facts["warm_mb"]
    stages = f"{facts['open_mb']:.0f} MB when opened, {facts['warm_mb']:.0f} MB after warm-up"
    print(f"memory  {stages}, {facts['end_mb']:.0f} MB at the end ({grown:+.1f} MB)")
    print(f"widgets {facts['warm_widgets']} and {facts['end_widgets']}, {facts['closed_widgets']} once closed")
    print(f"slider  {facts['first_ms']:.1f} ms in the first tenth, {facts['last_ms']:.1f} ms in the last (medians)")
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
