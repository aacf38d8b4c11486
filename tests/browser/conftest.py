"""A server of its own and one headless Chromium for all tests of this folder."""

import shutil
import sys
from pathlib import Path

import pytest
from chromium import Page, Server, chromium_here, missing

sys.path += [str(Path(__file__).parents[1] / name) for name in ("latents", "dashboard")]


def pytest_collection_modifyitems(items):
    lacking = missing()
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)
            if lacking:
                reason = (
                    f"there is no {', '.join(lacking)}: `make test-browser` installs what is missing and runs these"
                )
                item.add_marker(pytest.mark.skip(reason=reason))


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
    options.binary_location = chromium_here()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


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
