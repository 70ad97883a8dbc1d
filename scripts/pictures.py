"""Take README's pictures of the report: `python scripts/pictures.py` after a run, with Chromium installed.

Writes docs/pictures/report.png, the top of reports/index.html, and docs/pictures/model.png, one model's fold.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PAGE, PICTURES = ROOT / "reports/index.html", ROOT / "docs/pictures"
MODEL = "distill/kd_strong"


def main() -> None:
    """Open the page without a network and take both pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or not PAGE.is_file():
        sys.exit("this wants Chromium (apt install chromium) and reports/index.html (make repro)")
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_context(viewport={"width": 960, "height": 860}, offline=True).new_page()
        tab.goto(PAGE.as_uri())
        tab.wait_for_selector("html[data-ready=yes]")
        for _ in range(7):  # to a budget at which something is to be told
            tab.locator("#budget").press("PageDown")
        tab.wait_for_timeout(500)
        tab.locator("#budget").blur()
        tab.evaluate("scrollTo({top: document.getElementById('front').offsetTop, behavior: 'instant'})")
        tab.screenshot(path=PICTURES / "report.png")
        tab.evaluate(f"location.hash = '#{MODEL}'")
        tab.wait_for_selector(f"[data-training='{MODEL}'] svg")
        tab.wait_for_timeout(1000)
        tab.evaluate(f"scrollTo({{top: document.getElementById('{MODEL}').offsetTop, behavior: 'instant'}})")
        tab.screenshot(path=PICTURES / "model.png")
        browser.close()


if __name__ == "__main__":
    main()
