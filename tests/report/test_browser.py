"""The page in a real browser, narrow and wide; skipped where no Chromium is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest
from made_page import made_report

from holdfast.report.html import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--hide-scrollbars", "--virtual-time-budget=3000", "--dump-dom",
]  # fmt: skip

# A frame gives the page any width, also one below the narrowest window of the browser.
RULER = """<!doctype html><title>ruler</title>
<iframe id="page" width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>
<pre id="found"></pre>
<script>
document.getElementById("page").addEventListener("load", event => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  const boxes = [...inside.querySelectorAll(".wide")];
  const beyond = [...inside.querySelectorAll("main *")].filter(node =>
    node.getBoundingClientRect().right > root.clientWidth + 1 && !node.closest(".wide") && !node.closest("svg"));
  document.getElementById("found").textContent = JSON.stringify({{
    width: root.clientWidth, scroll: root.scrollWidth,
    beyond: beyond.map(node => node.outerHTML.slice(0, 120)),
    boxes: boxes.length, headline: getComputedStyle(inside.querySelector(".headline")).fontSize,
    frames: [...inside.querySelectorAll("figure.frame image")].map(node => node.getBoundingClientRect().width),
    curves: [...inside.querySelectorAll("svg.figure")].filter(node => node.getBoundingClientRect().width > 0).length,
  }});
}});
</script>"""


def opened(tmp_path, text, width):
    """What the browser measured, and what it wrote to its console."""
    ruler = tmp_path / "ruler.html"
    ruler.write_text(RULER.format(width=width, page=html.escape(text, quote=True)), encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 800)},1000",
         ruler.as_uri()], capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stdout[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


@pytest.fixture(scope="module")
def page():
    return render(made_report())


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window_and_raises_nothing(tmp_path, page, width):
    found, console = opened(tmp_path, page, width)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["beyond"] == []
    assert found["boxes"] >= 6
    assert found["curves"] >= 6
    assert len(found["frames"]) == 2
    assert all(w > 150 for w in found["frames"])
    assert console == []


def test_the_ruler_sees_what_it_looks_for(tmp_path):
    broken = render(made_report(bare=True)).replace(
        "</main>", '<div style="width:900px">x</div></main><script>console.error("seen")</script>'
    )
    found, console = opened(tmp_path, broken, 390)
    assert found["scroll"] > 390
    assert len(found["beyond"]) == 1
    assert any("seen" in line for line in console)
