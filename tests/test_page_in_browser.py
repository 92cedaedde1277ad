"""The status page in a headless Chromium: what is seen, clicked, typed and told while it is open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import browser
import numpy as np
import pytest
from conftest import absent
from page_fleet import CRITICAL, LOW, MadeUp, prediction, serving
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from edge_rul.core.alarm import Change, State, Status
from edge_rul.core.answers import Answered
from edge_rul.core.payload import Reading
from edge_rul.core.topic import Asset

NASTY = "<img src=x onerror=document.title='taken'>"
FIRST = "asset-A/engine-000"
PAGES = ["", "?show=alarm", f"asset?name={quote('A/engine-000', safe='')}", "asset?name=B/engine-019", "daemon"]
MISSING = "asset?name=" + "no-such-machine-" * 9


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    if browser.programs() is None:
        absent("chromium and chromedriver (apt-get install chromium chromium-driver)")
    with browser.browser() as driver:
        yield driver


@pytest.fixture
def page(chromium: Chrome) -> Iterator[tuple[Chrome, MadeUp, str]]:
    """The browser on a desktop's screen, a fleet of 60, and the server's address."""
    with serving(60, cycles=60) as (server, source):
        chromium.get_log("browser")
        size(chromium, 1280, 900)
        yield chromium, source, server.url
        chromium.get("about:blank")


def size(driver: Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def until(driver: Chrome, condition: Any) -> Any:
    """An element that an update has replaced is looked for again."""
    stale = [StaleElementReferenceException]
    return WebDriverWait(driver, 30, poll_frequency=0.05, ignored_exceptions=stale).until(condition)


def click(driver: Chrome, by: str, value: str) -> None:
    def clicked(driver: Chrome) -> bool:
        driver.find_element(by, value).click()
        return True

    until(driver, clicked)


def names(driver: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('tbody th.asset a')].map(a => a.textContent)"
    found: list[str] = driver.execute_script(script)
    return found


def live(driver: Chrome) -> None:
    """Until the page is updated by itself."""
    until(driver, lambda d: d.find_element(By.ID, "state").text == "Live")
    until(driver, lambda d: d.execute_script("return Number(document.documentElement.dataset.updates || 0)") > 0)


def change(source: MadeUp, name: str, rul: float, cycle: int = 500) -> None:
    asset = Asset(name, (("line", "A"),))
    with source.fleet() as fleet:
        fleet.heard(Reading(asset, cycle, None, np.zeros(6, np.float32)), 1.0)
        fleet.answered(Answered(asset, prediction(asset, 1, cycle, rul), True))
    source.turn()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_renders_without_a_complaint_and_asks_nobody_else(
    page: tuple[Chrome, MadeUp, str], path: str
) -> None:
    driver, _, url = page
    driver.get(url + path)
    live(driver)
    assert "edge_rul" in driver.title
    assert driver.get_log("browser") == []
    asked = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert asked and all(name.startswith(url) for name in asked)
    style = driver.execute_script("return getComputedStyle(document.querySelector('header')).display")
    assert style == "flex", "the style sheet is in force"


def in_alarm_and_stale(source: MadeUp) -> None:
    """All assets, some of them acknowledged or shelved: the widest rows that there are."""
    with source.fleet() as fleet:
        for n, record in enumerate(fleet.records()):
            record.stale, record.seen = True, record.seen - 1500.0
            told = [
                (CRITICAL, Status(State.ACTIVE, 0, 90, 0.9, n % 3 == 0, None)),
                (LOW, Status(State.ACTIVE, 0, 90, 9.0, False, 170 if n % 2 else None)),
            ]
            fleet.alarms(record.asset, [Change(record.asset, rule, status, 100, None, None) for rule, status in told])


@pytest.mark.parametrize("width", [320, 390, 768, 1000, 1080, 1089, 1180, 1233, 1280, 1400])
@pytest.mark.parametrize("path", PAGES)
def test_nothing_runs_out_of_the_screen_or_of_its_column(
    page: tuple[Chrome, MadeUp, str], path: str, width: int
) -> None:
    driver, source, url = page
    change(source, "a-machine-with-a-very-long-name-" * 3, 3.0)
    in_alarm_and_stale(source)
    size(driver, width, 844)
    driver.get(url + path)
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width, f"{wide} pixels wide on {width}"
    beyond = driver.execute_script(
        "const end = element => element.getBoundingClientRect().right, column = document.getElementById('live');"
        "return Math.max(0, ...[...column.querySelectorAll('table')].map(table => end(table) - end(column)))"
    )
    assert beyond < 1, f"a table is {beyond} pixels wider than its column on {width}"


def test_the_page_of_an_asset_that_is_gone_fits_a_phone_and_leads_back(
    page: tuple[Chrome, MadeUp, str],
) -> None:
    driver, _, url = page
    size(driver, 390, 844)
    driver.get(url + MISSING)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
    ground = driver.execute_script("return getComputedStyle(document.querySelector('.note')).backgroundColor")
    assert ground != "rgba(0, 0, 0, 0)", "the style sheet is in force"
    click(driver, By.LINK_TEXT, "To the fleet")
    until(driver, lambda d: FIRST.removeprefix("asset-") in names(d))


def test_on_a_phone_a_row_is_a_card_and_still_a_row_to_who_listens(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, _, url = page
    size(driver, 390, 844)
    driver.get(url)
    display = driver.execute_script("return getComputedStyle(document.querySelector('tbody tr')).display")
    assert display == "grid"
    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = [node["role"]["value"] for node in tree if not node["ignored"]]
    assert "table" in roles and roles.count("row") >= 50 and "rowheader" in roles


def test_filter_sort_and_page_by_mouse(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, _, url = page
    driver.get(url)
    click(driver, By.ID, "by-asset")
    until(driver, lambda d: names(d) == sorted(names(d)) and len(names(d)) == 50)
    click(driver, By.ID, "by-asset")
    until(driver, lambda d: names(d) == sorted(names(d), reverse=True))
    click(driver, By.ID, "following")
    until(driver, lambda d: len(names(d)) == 10)
    driver.find_element(By.NAME, "q").send_keys("engine-01" + Keys.ENTER)
    until(driver, lambda d: len(names(d)) == 10 and all("engine-01" in name for name in names(d)))
    assert names(driver) == sorted(names(driver), reverse=True), "the order stays"
    click(driver, By.ID, "asset-C/engine-011")
    until(driver, lambda d: d.find_element(By.TAG_NAME, "h1").text == "C/engine-011")


def test_what_changes_is_seen_without_a_reload_and_the_focus_stays(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, source, url = page
    driver.get(url)
    live(driver)
    driver.execute_script("window.same = true; document.getElementById(arguments[0]).focus()", FIRST)
    change(source, "newcomer", 1.5)
    until(driver, lambda d: "A/newcomer" in names(d))
    assert driver.execute_script("return window.same"), "it was not reloaded"
    assert driver.execute_script("return document.activeElement.id") == FIRST


def test_pausing_holds_the_page_still_until_it_goes_on(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, source, url = page
    driver.get(url)
    live(driver)
    pause = driver.find_element(By.ID, "pause")
    pause.click()
    assert pause.get_attribute("aria-pressed") == "true"
    before = int(driver.execute_script("return document.documentElement.dataset.updates"))
    change(source, "newcomer", 1.5)
    until(driver, lambda d: int(d.execute_script("return document.documentElement.dataset.updates")) > before)
    assert "A/newcomer" not in names(driver)
    pause.click()
    change(source, "newcomer", 1.4)
    until(driver, lambda d: "A/newcomer" in names(d))


def test_a_page_that_is_not_live_any_more_says_so_in_the_colour_of_a_note(chromium: Chrome) -> None:
    size(chromium, 1280, 900)
    with serving(5, cycles=60) as (server, source):
        source.daemon_alarms = {"disk_full": (True, 1.0)}
        chromium.get(server.url)
        live(chromium)
        note = chromium.find_element(By.CLASS_NAME, "note").value_of_css_property("color")
        assert chromium.find_element(By.ID, "state").value_of_css_property("color") != note
    until(chromium, lambda d: d.find_element(By.ID, "state").text == "Not live: no connection")
    assert chromium.find_element(By.ID, "state").value_of_css_property("color") == note
    chromium.get("about:blank")


def test_what_is_open_stays_open(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, source, url = page
    driver.get(url + PAGES[2])
    live(driver)
    click(driver, By.TAG_NAME, "summary")
    change(source, "engine-000", 77.7)
    until(driver, lambda d: "77.7" in d.find_element(By.CSS_SELECTOR, ".big").text)
    assert until(driver, lambda d: d.find_element(By.CSS_SELECTOR, "details table").is_displayed())


def press(driver: Chrome, key: str) -> None:
    """Whatever has the focus gets it: an element that was named might be replaced by an update meanwhile."""
    ActionChains(driver).send_keys(key).perform()


def test_the_keyboard_reaches_everything(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, _, url = page
    driver.get(url)
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    skip = driver.switch_to.active_element
    assert skip.text == "Skip to the content" and skip.rect["x"] >= 0, "seen once it has the focus"
    reached = []
    for _ in range(40):
        press(driver, Keys.TAB)
        active = driver.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("name") or active.text)
        outline = active.value_of_css_property("outline-style")
        assert outline != "none", f"{reached[-1]} does not show the focus"
        if reached[-1] == FIRST:
            break
    order = ["pause", "q", "health", "show-All", "by-asset", "by-seen", FIRST]
    assert [name for name in reached if name in order] == order
    press(driver, Keys.ENTER)
    until(driver, lambda d: d.find_element(By.TAG_NAME, "h1").text == "A/engine-000")


def test_a_name_is_never_markup(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, source, url = page
    driver.get(url)
    live(driver)
    change(source, NASTY, 0.5)
    until(driver, lambda d: f"A/{NASTY}" in names(d))
    click(driver, By.ID, f"asset-A/{NASTY}")
    until(driver, lambda d: d.find_element(By.TAG_NAME, "h1").text == f"A/{NASTY}")
    live(driver)
    assert driver.find_elements(By.TAG_NAME, "img") == [] and "taken" not in driver.title.partition(" · ")[2]


def test_who_leafs_through_pages_is_never_one_watcher_too_many(page: tuple[Chrome, MadeUp, str]) -> None:
    driver, _, url = page
    for n in range(20):
        driver.get(url + PAGES[n % len(PAGES)])
        live(driver)


def test_a_browser_gives_the_token_as_a_password(chromium: Chrome) -> None:
    with serving(5, cycles=60, token="secret") as (server, _):
        chromium.get(server.url.replace("://", "://me:secret@"))
        live(chromium)
        assert len(names(chromium)) == 5
        chromium.get("about:blank")
