"""Take the picture of a campaign's page: `python docs/make_screenshot.py URL OUT.png`.

URL is the page of a campaign on a running service, such as http://127.0.0.1:8400/campaigns/abcd2345, or the service's
own address, for its newest campaign. Needs Chromium on the PATH and the `dev` extra.
"""

import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 1280, 1030
LOADED = "() => Boolean(document.querySelector('#front-plot .points path'))"
WAIT_SECONDS = 60


def main() -> None:
    """Read the command line and write the picture."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    take(sys.argv[1], Path(sys.argv[2]))


def take(url: str, out: Path) -> None:
    """Write the page of the campaign at `url`, in light colours, to `out`."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(url)
        if urlsplit(url).path in ("", "/"):
            page.locator("#rows a").first.click()
        wait_for_front(page)
        out.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=out)
        browser.close()


def wait_for_front(page: Page) -> None:
    """Wait until the front is drawn. Polls from here: the page's policy lets nothing compile code in it."""
    page.locator("#content").wait_for(timeout=WAIT_SECONDS * 1000)
    for _ in range(10 * WAIT_SECONDS):
        if page.evaluate(LOADED):
            page.wait_for_timeout(1500)
            return
        page.wait_for_timeout(100)
    sys.exit(f"no front appeared within {WAIT_SECONDS} s")


if __name__ == "__main__":
    main()
