"""Servers over small SAEs, in this process without a network, or in a process of their own."""

import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import torch
from starlette.testclient import TestClient
from tiny_models import D_IN, make_tiny_model

from expander_sae.pursuit import Encoder, Stages
from expander_sae.saes import DenseTopKSae, ExpanderSae
from expander_sae.serving.app import Server
from expander_sae.serving.limits import Limits
from expander_sae.serving.opening import check_texts, open_model, open_saes
from expander_sae.web.guard import Access

BASE = "http://127.0.0.1:7342"
TEXTS = ["The old river holds the bright stone.", "Winter.", "A quiet bird counts 12 narrow lamps and forgets them."]


def make_saes(folder):
    """Four SAEs of the tiny model, read in several ways; `alone` does not say where it belongs."""
    sizes = {"d_in": D_IN, "n_latents": 96, "k": 6}
    saes = {
        "stages": ExpanderSae(**sizes, degree=4, reading=Stages(3)),
        "encoder": ExpanderSae(**sizes, degree=4, seed=1, signed=True, reading=Encoder()),
        "dense": DenseTopKSae(**sizes),
        "alone": ExpanderSae(**sizes, degree=4, seed=2),
    }
    for number, (name, sae) in enumerate(saes.items()):
        if name != "alone":
            sae.metadata = {"activations": {"layer": number % 2, "model_id": "model", "d_in": D_IN}}
        sae.save(folder / name)
    return {name: folder / name for name in saes}


def make_model(folder):
    return make_tiny_model(folder / "model")


@contextmanager
def served(folders, *, model=None, limits=None, access=None, labels=None):
    """A client of a server in this process; `server` is an attribute of it."""
    language_model = open_model(None if model is None else str(model), device="cpu", dtype="float32")
    saes = open_saes(folders, device="cpu", language_model=language_model, labels=labels)
    check_texts(saes, language_model)
    server = Server(saes, language_model, limits or Limits())
    with TestClient(server.app(access or Access()), base_url=BASE, raise_server_exceptions=False) as client:
        client.server = server
        yield client


def encoded(served, x):
    """What `encode` says, with the SAE as the server has it."""
    with torch.no_grad():
        return served.sae.encode(x)


def same_codes(answer, codes):
    """Whether an answer in JSON is these codes, to the bit."""
    told = answer.json()
    indices, values = torch.tensor(told["indices"]), torch.tensor(told["values"], dtype=torch.float64)
    return torch.equal(indices, codes.indices) and torch.equal(values, codes.values.double())


def start(folders, *options, **environment):
    """A server in a process of its own, and its port."""
    run = [sys.executable, "-m", "expander_sae.cli.main", "serve", *map(str, folders), "--port", "0", *options]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    said = process.stdout.readline()
    found = re.search(r"at http://[^ ]*:(\d+)/", said)
    assert found, said + process.stdout.read()
    return process, int(found[1])


def ask(port, path, body=None, *, kind="application/json", timeout=30, **headers):
    """Status, headers and content of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request("GET" if body is None else "POST", path, body=data, headers=sent)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


RAW = "application/octet-stream"


class Crowd:
    """Clients that ask again and again until the server is gone."""

    def __init__(self, port, answers, clients=8):
        self.port, self.answers = port, answers
        self.right = self.wrong = self.refused = 0
        self.lost = 0
        """Connections that ended before a byte of an answer came."""
        self.cut = 0
        """Answers that ended in their middle."""
        self._lock, self._end = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed):
        draw = random.Random(seed)
        while not self._end.is_set():
            data, expected = draw.choice(self.answers)
            try:
                status, _, content = ask(self.port, "/v1/activations", data, kind=RAW)
            except ConnectionRefusedError:
                return
            except http.client.IncompleteRead:
                with self._lock:
                    self.cut += 1
                continue
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.lost += 1
                continue
            with self._lock:
                if status == 200:
                    told = json.loads(content)
                    right = [told["indices"], told["values"]] == expected
                    self.right, self.wrong = self.right + right, self.wrong + (not right)
                else:
                    assert status in (429, 503), (status, content)
                    self.refused += 1

    def until(self, right):
        deadline = time.monotonic() + 30
        while self.right < right and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.right >= right

    def end(self):
        self._end.set()
        for thread in self._threads:
            thread.join(30)
