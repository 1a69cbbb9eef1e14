"""Pictures of the pages that `mbert demo` ends with, for the README and the documentation.

    mbert demo
    python examples/page_pictures.py mbert-demo docs/

Needs Playwright and Chromium. The people in the demo are variations of one public-domain photo.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGES = {  # name: page, height of the picture
    "preview": ("workspace/corpus/preview.html", 1400),
    "training": ("workspace/runs/pretrain/report.html", 1100),
    "evaluation": ("workspace/runs/loso/report.html", 1250),
}
WIDTH = 1180


def main(demo: Path, out: Path) -> None:
    """Write OUT/NAME.png for each of PAGES."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, (path, height) in PAGES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": height}, device_scale_factor=0.75)
            page.goto((demo / path).absolute().as_uri())
            page.screenshot(path=str(out / f"{name}.png"))
            print(out / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
