"""A server of its own and one headless Chromium for all tests of this folder."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("latents", "dashboard")]


def _missing():
    lacking = [] if importlib.util.find_spec("selenium") else ["selenium (pip)"]
    lacking += [] if _chromium() else ["chromium (Debian)"]
    return lacking + ([] if shutil.which("chromedriver") else ["chromium-driver (Debian)"])


def _chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items):
    lacking = _missing()
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)
            if lacking:
                reason = f"there is no {', '.join(lacking)}: `make test-browser` installs what is missing and runs these"
                item.add_marker(pytest.mark.skip(reason=reason))


class Server:
    """`expander-sae browse` as a process."""

    def __init__(self, store, *options):
        run = [sys.executable, "-m", "expander_sae.cli.main", "browse", str(store), "--no-open", "--port", "0", *options]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self.process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        start = time.monotonic()
        said = self.process.stdout.readline()
        self.seconds = time.monotonic() - start
        self.base = re.search(r"http://\S+?/", said)[0]

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="session")
def store(folder):
    from made_up import make_store

    return make_store(folder / "latents.db", n_latents=24)


@pytest.fixture(scope="session")
def server(folder, store):
    from rooms import tiny_live

    live = tiny_live(folder, store)
    running = Server(store, "--model", live.model, "--compute-dtype", "float32")
    yield running
    running.process.kill()


@pytest.fixture(scope="session")
def chromium():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _chromium()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


class Page:
    """What the tests do on a page."""

    def __init__(self, driver, base):
        self.driver, self.base = driver, base

    def open(self, place):
        self.driver.get("about:blank")  # or another hash of the same page would load nothing
        self.driver.get(self.base + place)
        self.drawn()
        return self

    def wait(self, script, *values, seconds=20):
        """What the script returns, once it is something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.driver.execute_script(script, *values)
            if found:
                return found
            time.sleep(0.03)
        raise AssertionError(f"never came: {script} {values}; the page says {self.text()[:500]!r}")

    def drawn(self):
        """Until the page of the address stands."""
        self.wait("const p = document.querySelector('#main > .page'); return p && !p.hasAttribute('aria-busy')")

    def find(self, selector):
        self.wait("return document.querySelector(arguments[0])", selector)
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector="#main"):
        return self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def says(self, text, selector="#main", seconds=20):
        self.wait("return (document.querySelector(arguments[0])?.innerText ?? '').includes(arguments[1])", selector, text, seconds=seconds)

    def keys(self, *keys):
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def heading(self, text):
        self.wait("return document.querySelector('h1')?.textContent === arguments[0] && !document.querySelector('[aria-busy]')", text)

    def size(self, width, height=900):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefers(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self):
        """What the browser wrote to its console: a script that failed, something the policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def page(chromium, server):
    page = Page(chromium, server.base)
    page.size(1280)
    page.prefers("light")
    chromium.get_log("browser")
    yield page
    for handle in chromium.window_handles[1:]:
        chromium.switch_to.window(handle)
        chromium.close()
    chromium.switch_to.window(chromium.window_handles[0])
