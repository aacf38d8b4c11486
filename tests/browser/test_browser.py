"""The pages in a real Chromium: what a person does, what hostile text does not, and what happens when things change."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from chromium import Page, Server

PAGES = (
    "overview",
    "search?q=river",
    "latent/0",
    "latent/3",
    "compare",
    "labels",
    "text",
    "steer?latent=5",
    "ablate?latent=5",
)
TEXT = "The old river holds the bright stone."


def test_it_opens_in_under_two_seconds_of_processor_time(server):
    assert server.seconds < 2


@pytest.mark.slow
def test_every_page_opens_and_the_browser_has_no_complaint(page):
    for place in PAGES:
        page.open(f"#/{place}")
        assert page.find("h1").text
        assert not page.all(".page > .problem")
        assert page.complaints() == []


@pytest.mark.slow
def test_every_page_fits_a_phone(page):
    page.size(390, 844)
    for place in PAGES:
        page.open(f"#/{place}")
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.driver.execute_script(wide) <= 0, place


@pytest.mark.slow
def test_dark_and_light_follow_the_system_and_the_switch(page):
    def lightness():
        colour = page.driver.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
        return sum(int(part) for part in colour.strip("rgb()").split(",")) / 765

    page.open("#/overview")
    assert lightness() > 0.9
    page.prefers("dark")
    assert lightness() < 0.2
    page.find("#theme").click()
    assert lightness() > 0.9
    page.open("#/search")
    assert lightness() > 0.9  # kept over a reload
    page.driver.execute_script("localStorage.clear()")


def test_search_to_a_latent_and_back(page):
    page.open("#/search")
    page.find("#q").send_keys("river")
    page.wait("return location.hash.includes('q=river') && document.querySelectorAll('.result').length > 0")
    first = page.all(".result .latent-number")[0]
    number = first.text
    first.click()
    page.heading(f"Latent {number}")
    page.driver.back()
    page.heading("Search")
    assert page.find("#q").get_attribute("value") == "river"
    page.find("#q").clear()
    page.find("#q").send_keys("17\n")
    page.heading("Latent 17")


def test_hostile_tokens_are_seen_and_do_nothing(page):
    seen = ""
    for j in range(0, 12, 2):
        page.open(f"#/latent/{j}")
        seen += page.text()
    assert "<script>alert(1)</script>" in seen
    assert "\\u202e" in seen
    assert "\\x1b" in seen
    assert "10,000 characters" in seen
    assert not {"\u202e", "\u202c", "\x1b", "\x07"} & set(seen)
    assert not page.all("#main script")
    assert page.complaints() == []
    with pytest.raises(Exception, match="no such alert"):
        page.driver.switch_to.alert.accept()


@pytest.mark.slow
def test_a_hostile_label_too(page, server, store):
    from expander_sae.latents import LabelFile, LatentStore

    with LatentStore.open(store) as opened, LabelFile.beside(store) as labels:
        labels.put(opened.views[0].sha256, 20, text="<img src=x onerror=alert(1)>\u202eevil", seen=0)
    page.open("#/search?in=label&q=evil")
    page.says("<img src=x onerror=alert(1)>\\u202eevil")
    page.open("#/labels")
    page.says("<img src=x onerror=alert(1)>")
    assert not page.all("#main img")
    assert page.complaints() == []


@pytest.mark.slow
def test_quarters_of_activation_and_other_readings(page):
    page.open("#/latent/1?part=2")
    assert page.find("[role=tab][aria-selected=true]").text == "2nd quarter"
    page.find("#tab-4").click()
    assert "part=4" in page.driver.current_url
    page.find(".contexts .card button").click()
    page.wait("return document.querySelectorAll('.readings .side').length === 2")


@pytest.mark.slow
def test_by_keyboard_alone(page):
    page.open("#/overview")
    page.keys("/")
    page.heading("Search")
    page.wait("return document.activeElement.id === 'q'")
    page.keys("r", "i", "v", "e", "r")
    page.wait("return document.querySelectorAll('.result').length > 0 && location.hash.includes('river')")
    page.driver.execute_script("document.activeElement.blur()")
    page.keys("j", "j", "k", "j")
    number = page.driver.execute_script("return document.activeElement.textContent")
    assert number == page.all(".result .latent-number")[1].text
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.driver.execute_script(outline) == "solid"
    page.keys("\ue007")
    page.heading(f"Latent {number}")
    page.keys("]")
    page.heading(f"Latent {int(number) + 1}")
    page.keys("[")
    page.heading(f"Latent {number}")
    page.keys("3")
    assert page.find("[role=tab][aria-selected=true]").text == "3rd quarter"
    page.keys("e")
    page.wait("return document.activeElement.id === 'label-input'")
    page.keys("?", "\ue00c")  # typed into the label, not a shortcut
    assert page.find("#label-input").get_attribute("value") == "?"
    page.keys("?")
    page.says("latent before, latent after", "dialog")
    page.keys("\ue00c")
    page.wait("return !document.querySelector('dialog')")
    page.keys("g", "c")
    page.heading("Compare")
    page.keys("g", "o")
    page.find("canvas.map")
    page.driver.execute_script("document.querySelector('canvas.map').focus()")
    page.keys("\ue014", "\ue014", "\ue007")
    page.wait("return /^Latent \\d+$/.test(document.querySelector('h1')?.textContent)")


@pytest.mark.slow
def test_the_map_is_clicked(page):
    from selenium.webdriver import ActionChains

    page.open("#/overview")
    canvas = page.find("canvas.map")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", canvas)
    page.keys("\ue014")
    page.wait("return document.querySelector('.map-words .latent-number')")
    # Every point of a coarse grid, until one is near enough to a latent for the page to change.
    width, height = canvas.size["width"], canvas.size["height"]
    for x in range(-width // 2 + 20, width // 2, 24):
        for y in range(-height // 2 + 20, height // 2, 80):
            ActionChains(page.driver).move_to_element_with_offset(canvas, x, y).click().perform()
            if "#/latent/" in page.driver.current_url:
                return
    raise AssertionError("no click opened a latent")


@pytest.mark.slow
def test_a_text_shows_what_fires_on_each_token(page):
    page.open("#/text")
    box = page.find("#prompt")
    box.clear()
    box.send_keys(TEXT)
    page.find("button.primary").click()
    page.wait("return document.querySelectorAll('.passage .token').length > 5", seconds=60)
    assert page.text(".passage") == TEXT
    page.all(".passage .token")[3].click()
    page.wait("return document.querySelectorAll('.two .near li').length > 0")
    page.find(".two .near button").click()
    assert "latent=" in page.driver.current_url
    page.open(f"#/text?text={TEXT.replace(' ', '%20')}")  # a link to it runs it
    page.wait("return document.querySelectorAll('.passage .token').length > 5")
    assert page.complaints() == []


@pytest.mark.slow
def test_steering_writes_beside_the_unsteered_text(page):
    page.open("#/steer?latent=5&strength=4&tokens=8")
    page.says("residual stream after block 1", ".hook")
    page.find("button.primary").click()
    page.says("done in", ".actions", seconds=60)
    plain, steered = (box.text for box in page.all(".generated"))
    assert plain.startswith("The best thing")
    assert len(plain) > len("The best thing about the old town is")
    assert plain != steered
    page.open("#/steer?latent=3")  # never fired
    page.find("button.primary").click()
    page.says("never did", ".actions")


@pytest.mark.slow
def test_taking_a_latent_away_shows_probabilities(page):
    page.open(f"#/ablate?latent=5&text={TEXT.replace(' ', '%20')}")
    page.wait("return document.querySelectorAll('tbody tr').length > 5", seconds=60)
    assert page.complaints() == []


def test_a_label_in_two_tabs(page, chromium):
    page.open("#/latent/9")
    page.find("#label-input").send_keys("first")
    page.says("saved", ".save-state")
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    page.open("#/latent/9")
    assert page.find("#label-input").get_attribute("value") == "first"
    page.find("#label-input").send_keys(" and second")
    page.says("saved", ".save-state")
    chromium.switch_to.window(first)
    page.find("#label-input").send_keys(" or third")
    page.says("changed in another tab", ".conflict")
    page.says("first and second", ".conflict")
    page.says("first or third", ".conflict")
    page.find("#keep-mine").click()
    page.says("saved", ".save-state")
    page.open("#/latent/9")
    assert page.find("#label-input").get_attribute("value") == "first or third"
    # And the other way round.
    chromium.switch_to.window(chromium.window_handles[1])
    page.find("#star-button").click()
    page.find("#take-theirs").click()
    page.wait("return document.getElementById('label-input').value === 'first or third'")
    page.open("#/labels")
    page.says("first or third")


@pytest.mark.slow
def test_labels_come_in_from_a_file(page, folder, store):
    from expander_sae.latents import LatentStore

    with LatentStore.open(store) as opened:
        label = {"sha256": opened.views[0].sha256, "latent": 11, "text": "from a file", "changed": "2030-01-01"}
    path = folder / "labels.json"
    path.write_text(json.dumps({"format": "expander-sae labels 1", "labels": [label]}))
    page.open("#/labels")
    page.find("#labels-file").send_keys(str(path))
    page.says("from a file")
    path.write_text("no labels")
    page.find("#labels-file").send_keys(str(path))
    page.says("not JSON")


@pytest.mark.slow
def test_twenty_readers_in_the_page_while_another_process_rebuilds(page, folder):
    path = folder / "rebuilt.db"
    made = Path(__file__).parents[1] / "latents" / "made_up.py"
    subprocess.run([sys.executable, str(made), str(path), "24"], check=True, capture_output=True)
    server = Server(path)
    try:
        other = Page(page.driver, server.base).open("#/latent/0")
        new, build = f"{path}.new", f"[sys.executable, {str(made)!r}, {str(path) + '.new'!r}, str(24 + 4 * i)]"
        renamed = (
            "import os, subprocess, sys\n"
            f"for i in range(4): subprocess.run({build}, check=True); os.replace({new!r}, {str(path)!r})"
        )
        builder = subprocess.Popen([sys.executable, "-c", renamed], stdout=subprocess.DEVNULL)
        result = page.driver.execute_async_script(
            """
            const done = arguments[0];
            const read = async () => {
              const sizes = new Set();
              for (let i = 0; i < 25; i += 1) {
                const response = await fetch(`api/latent/${i % 20}`);
                if (!response.ok) throw new Error(await response.text());
                const latent = await response.json();
                if (latent.histogram.reduce((a, b) => a + b, 0) !== latent.firings) throw new Error("half an answer");
                sizes.add((await (await fetch("api/store")).json()).views[0].n_latents);
              }
              return [...sizes];
            };
            const all = Promise.all(Array.from({ length: 20 }, read));
            all.then((sizes) => done(sizes.flat()), (error) => done(String(error)));
            """
        )
        assert isinstance(result, list), result
        assert builder.wait(60) == 0
        other.open("#/overview")
        other.says("36 latents")
    finally:
        server.process.kill()


@pytest.mark.slow
def test_a_server_stopped_in_mid_request_leaves_everything_whole(page, folder, store):
    from rooms import tiny_live

    mine = folder / "stopped.db"
    mine.write_bytes(store.read_bytes())
    server = Server(mine, "--model", tiny_live(folder, mine).model, "--compute-dtype", "float32")
    other = Page(page.driver, server.base).open("#/latent/2")
    other.find("#label-input").send_keys("kept")
    other.says("saved", ".save-state")
    other.open("#/steer?latent=5&tokens=128")
    other.find("button.primary").click()
    threading.Event().wait(0.4)  # the model is being loaded, or is at work
    assert server.stop(signal.SIGTERM) == 0
    ended = "/does not answer|done|stopping|rror/.test(document.querySelector('.actions').innerText)"
    other.wait(f"return {ended}")
    for path in (mine, mine.with_name("stopped.labels.db")):
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    again = Server(mine)
    try:
        other = Page(page.driver, again.base).open("#/latent/2")
        assert other.find("#label-input").get_attribute("value") == "kept"
    finally:
        assert again.stop(signal.SIGINT) == 0


@pytest.mark.slow
def test_the_pages_as_files(page, folder, store):
    site = folder / "site"
    run = [sys.executable, "-m", "expander_sae.cli.main", "browse", str(store), "--export", str(site)]
    subprocess.run(run, check=True, capture_output=True)
    files = Page(page.driver, (site / "index.html").as_uri())
    for place in PAGES[:6]:
        files.open(f"#/{place}")
        assert not files.all(".page > .problem")
        assert files.complaints() == []
    files.open("#/latent/4")
    assert files.all(".passage .token")
    assert not files.all("#label-input")
    files.open("#/search?order=specific")
    files.find(".result .latent-number").click()
    files.wait("return document.querySelector('h1')?.textContent.startsWith('Latent')")
    assert "Steer" not in files.text("#bar")
