"""A headless Chromium, driven by Selenium. Owns how it is found and started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service


def programs() -> tuple[str, str] | None:
    """The paths of Chromium and its driver; None where one of them is missing."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


@contextmanager
def browser(*, scheme: str = "light", width: int = 1280, height: int = 900) -> Iterator[Chrome]:
    """A browser of its own, ended with the block. scheme: light or dark. Raises LookupError where there is none."""
    found = programs()
    if found is None:
        raise LookupError("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = found[0]
    # No sandbox: it needs rights that a container's root has not. What is opened is our own page alone.
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(found[1]))
    try:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        yield driver
    finally:
        driver.quit()
