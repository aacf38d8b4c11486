"""A server over a made-up store, asked without a network; and a tiny model behind it."""

import sqlite3
from contextlib import contextmanager
from pathlib import Path

from starlette.testclient import TestClient

from expander_sae.dashboard.current import CurrentStore
from expander_sae.dashboard.live import Live
from expander_sae.dashboard.server import make_app
from expander_sae.latents import LabelFile
from expander_sae.web.guard import Access

BASE = "http://127.0.0.1:7341"
WRITES = {"origin": BASE, "content-type": "application/json"}


@contextmanager
def server(store, *, live=None, access=None, **options):
    """A client of a server; `store` and `labels` are attributes of it."""
    current, labels = CurrentStore(store), LabelFile.beside(store)
    app = make_app(current, labels, live or Live(None), access or Access())
    with TestClient(app, base_url=BASE, **options) as client:
        client.current, client.labels = current, labels
        yield client


def put_label(client, latent, told, **more):
    return client.put(f"/api/labels/{latent}", json=told, headers=WRITES, **more)


def tiny_live(folder: Path, store: Path) -> Live:
    """A tiny model, and its SAE as the store's first two views; dimensions must be those of `tiny_models`."""
    import torch
    from tiny_models import D_IN, make_tiny_model

    from expander_sae.latents.identity import sae_sha256
    from expander_sae.saes import ExpanderSae, load_sae

    model = make_tiny_model(folder / "model")
    torch.manual_seed(0)
    sae = ExpanderSae(d_in=D_IN, n_latents=24, degree=4, k=4)
    sae.metadata = {"activations": {"layer": 1, "model_id": "model", "d_in": D_IN}}
    sae.save(folder / "sae")
    connection = sqlite3.connect(store)
    with connection:
        connection.execute(
            "UPDATE views SET folder = ?, sha256 = ? WHERE id < 2",
            (str(folder / "sae"), sae_sha256(load_sae(folder / "sae"))),
        )
        connection.execute("UPDATE views SET reading = 'stages:2' WHERE id = 1")
    connection.close()
    return Live(str(model), dtype="float32")
