"""The browser of the tests that drive one: `python tests/browser.py` gets it where that is possible.

Chromium comes from the system's packages where this is root or `sudo` asks for no password, else from Playwright.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = ("apt-get update -qq", "apt-get install -y -qq --no-install-recommends chromium")
MISSING = "no browser: the tests that drive JupyterLab in chromium did not run; install chromium and run them again"


def find() -> str | None:
    """Return the path of a browser that can be started, None if there is none."""
    from playwright.sync_api import sync_playwright

    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def get() -> None:
    """Install a browser if there is none; a command that fails says so itself, and the next one is tried."""
    if find():
        return
    print("There is no chromium for the tests that drive a browser; trying to get one.", flush=True)
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    commands = [[*root, "env", "DEBIAN_FRONTEND=noninteractive", *line.split()] for line in INSTALL]
    able = shutil.which("apt-get") and (not root or shutil.which("sudo"))
    if not (able and all(_runs(command) for command in commands)):
        _runs([sys.executable, "-m", "playwright", "install", "chromium"])
    if not find():
        print(MISSING, flush=True)


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=300).returncode == 0
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    get()
