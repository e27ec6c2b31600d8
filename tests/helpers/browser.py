"""A headless browser without a network, which opens a page and reports what a script in it found."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Waits until the figures are drawn, runs the test's script, and adds its answers to the document as JSON.
_PROBE = """
<script>
addEventListener("load", async () => {
  const places = document.querySelectorAll(".plot");
  for (let tries = 0; tries < 300 && [...places].some((place) => !place.querySelector(".main-svg")); tries++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const answers = {};
  try { %s } catch (error) { console.error(error); }
  answers.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  document.getElementById("plotly")?.remove(); // Writing its 2 MB out takes as long as drawing a figure.
  const out = document.createElement("output");
  out.id = "answers";
  out.textContent = JSON.stringify(answers);
  document.body.append(out);
});
</script>
"""


class OpenedPage(NamedTuple):
    """The answers of the script that ran in a page, and the messages on the browser's console."""

    answers: dict[str, Any]
    console: list[str]


def open_page(page: Path, script: str, folder: Path, *, dark: bool = False, width: int = 1280) -> OpenedPage:
    """Open a copy of a page, and run `script` in it once the figures are drawn. Skip the test without a browser.

    Args:
        page: The HTML file.
        script: JavaScript that sets properties of the object `answers`.
        folder: The folder of the browser's profile.
        dark: Whether the browser prefers a dark colour scheme.
        width: The width of the window in pixels.
    """
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    copy = page.with_name("opened.html")
    copy.write_text(page.read_text().replace("</body>", _PROBE % script + "</body>"))
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
        *("--virtual-time-budget=10000", f"--window-size={width},2000", f"--user-data-dir={folder}"),
        "--enable-unsafe-swiftshader",  # WebGL without a GPU
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    process = subprocess.run(
        [program, *options, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    copy.unlink()
    answers = re.search(r'<output id="answers">(.*?)</output>', process.stdout, re.DOTALL)
    assert answers, process.stderr[-2000:]
    console = [line for line in process.stderr.splitlines() if "CONSOLE" in line]
    return OpenedPage(json.loads(unescape(answers[1])), console)
