"""A headless browser that opens a page, without a network, and tells what became of it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# waits for the figures, then leaves what `questions` evaluate to in the document
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
  const out = document.createElement("output");
  out.id = "answers";
  out.textContent = JSON.stringify(answers);
  document.body.append(out);
});
</script>
"""


class OpenedPage(NamedTuple):
    """What a script in the page found, and what the browser's console said."""

    answers: dict[str, Any]
    console: list[str]


def open_page(page: Path, script: str, folder: Path, *, dark: bool = False, width: int = 1280) -> OpenedPage:
    """Open a copy of `page` whose `script` fills an object `answers`, once the figures are drawn."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    copy = page.with_name("opened.html")
    copy.write_text(page.read_text().replace("</body>", _PROBE % script + "</body>"))
    done = subprocess.run(
        [
            program,
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
            *("--virtual-time-budget=10000", f"--window-size={width},2000", f"--user-data-dir={folder}"),
            "--enable-unsafe-swiftshader",  # WebGL without a GPU
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    copy.unlink()
    found = re.search(r'<output id="answers">(.*?)</output>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return OpenedPage(json.loads(unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line])
