"""A page in headless Chromium: the DOM after its scripts have run, and what the console said."""

import json
import re
import shutil
import subprocess
import tempfile
import warnings
from html import unescape
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions",
    "--enable-logging=stderr", "--hide-scrollbars", "--virtual-time-budget=2000", "--window-size=1280,1400",
)  # fmt: skip
# In the head, before the page's own scripts; what is put at the end fills `found`.
WATCH = """<script>
window.found = {errors: []};
addEventListener("error", (event) => found.errors.push(String(event.message)), true);
addEventListener("securitypolicyviolation", (event) => found.errors.push("blocked " + event.blockedURI));
</script>"""
REPORT = """<script>
try { %s } catch (error) { found.errors.push(String(error)); }
const result = document.createElement("pre");
result.id = "found";
result.textContent = JSON.stringify(found);
document.body.append(result);
</script>"""


def executable() -> str:
    """Chromium's path; without it the test is skipped, and says so among the warnings."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    reason = "no Chromium on this machine (Debian: apt-get install chromium; .ci/run installs it): page not opened"
    warnings.warn(reason, stacklevel=2)
    pytest.skip(reason)


def open_page(page: Path, script: str, *options: str) -> dict[str, Any]:
    """Open a copy of a page from the disk, run a script at its end, and return what that put into `found`.

    `found.errors` has the page's errors; `found["console"]` the lines of the console.
    """
    command = executable()
    text = page.read_text(encoding="utf-8").replace("<head>", "<head>" + WATCH, 1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "page.html")
        copy.write_text(text.replace("</body>", REPORT % script + "</body>"), encoding="utf-8")
        arguments = [command, *FLAGS, f"--user-data-dir={folder}/profile", *options, "--dump-dom", copy.as_uri()]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, f"the page did not get to its end: {done.stdout[-500:]} {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(match[1])) | {"console": console}


def screenshot(page: Path, picture: Path) -> None:
    """Write a picture of the page's top, 1280 pixels wide."""
    command = [executable(), *FLAGS, f"--user-data-dir={picture.parent}/profile", f"--screenshot={picture}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300)
    assert picture.is_file(), done.stderr[-2000:]
