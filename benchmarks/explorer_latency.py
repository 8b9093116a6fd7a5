"""How long a slider takes to become a new picture, measured through a real kernel.

A kernel is started and the explorer opened in it, as JupyterLab does. Then the ratio slider is moved by the same comm
messages that the browser sends, one at a time, and the clock runs from the message until what the new picture is
drawn from has arrived. Prints percentiles for 16 frames of 14x14 patches; `--json` writes them.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "one method": "compare=[]",
    "two methods": "",
    "two methods, pixels as tokens": "encoder='pixels'",
    "four methods": "compare=['uniform', 'divprune', 'tome']",
}


def measure(setting: str, moves: int) -> list[float]:
    """Milliseconds from each slider message to its new picture."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        reply = client.execute_interactive(
            f"import vtc_lab as vtc; e = vtc.explore({setting})\n"
            "slider = e._controls['ratio'].children[0]; image = e._strips",
            user_expressions={"slider": "slider.model_id", "image": "image.model_id", "message": "e.message"},
            timeout=120,
        )["content"]
        assert reply["status"] == "ok", reply
        values = {key: value["data"]["text/plain"].strip("'") for key, value in reply["user_expressions"].items()}
        assert not values["message"], values["message"]
        times = []
        for move in range(moves):
            ratio = 2 ** (1 + (move * 0.65) % 5)  # 2x to 64x, never the same twice in a row
            data = {"method": "update", "state": {"value": ratio}, "buffer_paths": []}
            content = {"comm_id": values["slider"], "data": data}
            start = time.perf_counter()
            client.shell_channel.send(client.session.msg("comm_msg", content))
            _await_picture(client, values["image"])
            times.append(1000 * (time.perf_counter() - start))
        return times[3:]  # the first moves warm caches up
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _await_picture(client, image: str) -> None:
    while True:
        message = client.get_iopub_msg(timeout=30)
        content = message["content"]
        mine = message["msg_type"] == "comm_msg" and content["comm_id"] == image
        if mine and "drawn" in content["data"].get("state", {}):
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    print(f"{platform.machine()}, {platform.processor() or 'processor unnamed'}, 16 frames of 14x14 patches")
    for name, setting in SETTINGS.items():
        times = sorted(measure(setting, arguments.moves))
        worst = times[min(len(times) - 1, round(0.95 * len(times)))]
        results[name] = {"median_ms": statistics.median(times), "p95_ms": worst, "moves": len(times)}
        print(f"{name:32s} median {results[name]['median_ms']:6.1f} ms   95th percentile {worst:6.1f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
