"""Posts upload bodies to Neuronpedia, or to one's own: once each, however often it is begun."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from expander_sae.evaluation.endpoint import Endpoint, NoAnswer, patiently
from expander_sae.records import ExpanderSaeError, read_json, sha256_file

PATH = "api/feature/upload-batch"
TRIES = 6
_DONE = "uploaded.jsonl"


def upload(
    bodies: Iterator[Path] | list[Path], url: str, key: str, *, tries: int = TRIES
) -> Iterator[tuple[Path, bool]]:
    """Post each body, and remember beside it that it was taken.

    Args:
        bodies: JSON files of one folder.
        url: of the site, as https://www.neuronpedia.org.
        key: of the account that made the set of sources.
        tries: of one request.

    Yields:
        Each file, and whether it was posted now (not before).

    Raises:
        ExpanderSaeError: the site refuses or does not answer; what it took is remembered.
    """
    endpoint = Endpoint(url, headers={"x-api-key": key}, timeout=300.0)
    for body in bodies:
        done = body.parent / _DONE
        known = {"url": endpoint.url, "file": body.name, "sha256": sha256_file(body)}
        if known in _taken(done):
            yield body, False
            continue
        told = read_json(body)
        try:
            patiently(lambda told=told: endpoint.post(PATH, told), tries=tries)
        except NoAnswer as error:
            raise ExpanderSaeError(
                f"expected {endpoint.url}/{PATH} to take {body.name}; got {error}. What it took is noted in {done}: "
                "run the same command again, which goes on from there."
            ) from error
        with open(done, "a", encoding="utf-8") as file:
            file.write(json.dumps(known) + "\n")
        yield body, True


def _taken(done: Path) -> list[object]:
    """What was noted; a line that was cut off by a kill is none."""
    found: list[object] = []
    if done.is_file():
        for line in done.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found
