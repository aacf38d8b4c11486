"""Pictures of the browser's pages: docs/figures/browser-*.png.

python dev/screenshots.py demo-out/latents.db --model demo-out/base/model [--out docs/figures]

Starts `expander-sae browse` and looks at it with a headless Chromium: the pages on a desk in light, some in dark and at
a phone's width. Pictures have 128 colours, and few bytes.
"""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TEXT = "The river rose after three days of rain, and in March 1913 the town had to leave its houses."
FROM_TEXT = "the first link to an ablation on the page before"
DESK, PHONE = (1280, 860), (390, 844)


def shots(view: str, latent: int, has_model: bool) -> list[tuple[str, str, tuple[int, int], str, str | None]]:
    """Name, place, size, light or dark, and what to wait for in each picture's page."""

    def place(page: str, **params: object) -> str:
        return f"#/{page}?{urlencode({'view': view, **params})}"

    found = [
        ("overview", place("overview"), DESK, "light", None),
        ("latent", place(f"latent/{latent}"), DESK, "light", None),
        ("latent-dark", place(f"latent/{latent}"), DESK, "dark", None),
        ("latent-phone", place(f"latent/{latent}"), PHONE, "light", None),
        ("search", place("search", q="river"), DESK, "light", None),
        ("compare", place("compare", order="alike"), DESK, "light", None),
    ]
    if has_model:
        text, some = {"text": TEXT}, {"latent": latent, "strength": 3, "tokens": 40}
        found += [
            ("text", place("text", **text), DESK, "light", "done in"),
            ("ablate", FROM_TEXT, DESK, "dark", "done in"),
            ("steer", place("steer", **some), DESK, "light", "button"),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--view", help="the first unless given")
    parser.add_argument("--latent", type=int, help="the most specific that fires often unless given")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    args = parser.parse_args()
    from expander_sae.latents import LatentStore

    with LatentStore.open(args.store) as store:
        view = store.view(args.view)
        best = store.search(view=view, order="specific", density=(1e-3, 1), limit=1)
        latent = best[0].index if args.latent is None else args.latent
    model = ["--model", str(args.model)] if args.model else []
    command = [sys.executable, "-m", "expander_sae.cli.main", "browse", str(args.store), "--no-open", "--port", "0"]
    server = subprocess.Popen(
        [*command, *model], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert server.stdout is not None
        base = re.search(r"http://\S+", server.stdout.readline())[0]  # type: ignore[index]
        draw(base, shots(view.name, latent, bool(model)), args.out)
    finally:
        server.terminate()
        server.wait(30)


def draw(base: str, wanted: list[tuple[str, str, tuple[int, int], str, str | None]], out: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    ready = "const p = document.querySelector('#main > .page'); return p && !p.hasAttribute('aria-busy')"
    try:
        for name, place, (width, height), scheme, wait in wanted:
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            if place is FROM_TEXT:
                place = driver.execute_script("return document.querySelector('.two > :last-child .small-link').hash")
            driver.get("about:blank")
            driver.get(base + place)
            until(lambda: driver.execute_script(ready), place)
            if wait == "button":
                driver.find_element(By.CSS_SELECTOR, "button.primary").click()
            if wait:
                until(lambda: "done in" in driver.find_element(By.CSS_SELECTOR, ".actions").text, place)
            time.sleep(0.5)  # fonts, and the map's points
            picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
            path = out / f"browser-{name}.png"
            picture.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    finally:
        driver.quit()


def until(condition, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what} never came")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
