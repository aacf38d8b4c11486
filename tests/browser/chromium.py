"""`expander-sae browse` as a process, and what a person does on its pages by a headless Chromium."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path


def missing():
    lacking = [] if importlib.util.find_spec("selenium") else ["selenium (pip)"]
    lacking += [] if chromium_here() else ["chromium (Debian)"]
    return lacking + ([] if shutil.which("chromedriver") else ["chromium-driver (Debian)"])


def chromium_here():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Server:
    """`expander-sae browse` as a process."""

    def __init__(self, store, *options):
        run = [
            sys.executable,
            "-m",
            "expander_sae.cli.main",
            "browse",
            str(store),
            "--no-open",
            "--port",
            "0",
            *options,
        ]
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self.process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        start = time.monotonic()
        said = self.process.stdout.readline()
        self.seconds = self._worked(time.monotonic() - start)
        self.base = re.search(r"http://\S+?/", said)[0]

    def _worked(self, passed):
        """Its seconds of a processor where the system tells: other work on this machine is none of them."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return passed
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number):
        self.process.send_signal(number)
        return self.process.wait(30)


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
        self.wait(
            "return (document.querySelector(arguments[0])?.innerText ?? '').includes(arguments[1])",
            selector,
            text,
            seconds=seconds,
        )

    def keys(self, *keys):
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def heading(self, text):
        heading = "return document.querySelector('h1')?.textContent === arguments[0]"
        self.wait(f"{heading} && !document.querySelector('[aria-busy]')", text)

    def size(self, width, height=900):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefers(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self):
        """What the browser wrote to its console: a script that failed, something the policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser")]
