"""Pictures of the status page in a headless Chromium: desktop and phone, light and dark.

    python tools/screenshots.py --out DIR [--assets 60]

Needs `chromium` on the path (Debian: apt-get install chromium). The fleet is made up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from browser import browser
from page_fleet import serving
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from edge_rul.errors import EXIT_OK

PICTURES = {
    "fleet": ("", 1280, 900),
    "asset": (f"asset?name={quote('A/engine-000', safe='')}", 1280, 1250),
    "daemon": ("daemon", 1280, 760),
    "fleet-phone": ("", 390, 844),
    "asset-phone": (f"asset?name={quote('A/engine-000', safe='')}", 390, 1500),
    "daemon-phone": ("daemon", 390, 1100),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Pictures of the status page.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the PNG files go")
    parser.add_argument("--assets", type=int, default=60, metavar="N", help="size of the fleet (60)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    with serving(args.assets) as (server, _):
        for scheme in ("light", "dark"):
            with browser(scheme=scheme) as driver:
                for name, (path, width, height) in PICTURES.items():
                    driver.execute_cdp_cmd(
                        "Emulation.setDeviceMetricsOverride",
                        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
                    )
                    driver.get(server.url + path)
                    WebDriverWait(driver, 30).until(lambda d: d.find_element(By.ID, "state").text == "Live")
                    file = args.out / f"{name}-{scheme}.png"
                    driver.save_screenshot(str(file))
                    print(file)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
