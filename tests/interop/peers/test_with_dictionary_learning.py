import json

import pytest
import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer

from expander_sae.interop import read_sae, write_sae
from expander_sae.pursuit import Encoder
from expander_sae.saes import ExpanderSae

X = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
CLASSES = {
    "AutoEncoderTopK": lambda: AutoEncoderTopK(16, 80, 5),
    "BatchTopKSAE": lambda: BatchTopKSAE(16, 80, 5),
    "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(16, 80, 5, [20, 60]),
    "AutoEncoder": lambda: AutoEncoder(16, 80),
    "AutoEncoderNew": lambda: AutoEncoderNew(16, 80),
    "JumpReluAutoEncoder": lambda: JumpReluAutoEncoder(16, 80),
}


@pytest.mark.parametrize("name", CLASSES)
def test_their_file_computes_the_same_here(tmp_path, name):
    torch.manual_seed(0)
    theirs = CLASSES[name]()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if name in ("AutoEncoderTopK", "BatchTopKSAE") and key == "decoder.weight":
                parameter.div_(parameter.norm(dim=0))  # what their trainers keep
        if hasattr(theirs, "threshold"):
            theirs.threshold.fill_(0.6)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": name}, "buffer": {}}))
    ours = read_sae(tmp_path)
    torch.testing.assert_close(ours(X), theirs(X), rtol=1e-4, atol=1e-4)
    codes = ours.encode(X)
    mine = torch.zeros(30, 80, dtype=torch.bool).scatter_(1, codes.indices, codes.values > 0)
    assert torch.equal(mine, theirs.encode(X) > 0)


def test_a_file_of_their_trainer(tmp_path):
    sizes = {"activation_dim": 16, "dict_size": 80, "k": 5}
    trainer = TopKTrainer(**sizes, steps=3, warmup_steps=1, layer=1, lm_name="tiny", seed=0, device="cpu")
    for step in range(3):
        trainer.update(step, X)
    torch.save(trainer.ae.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer.config}))
    ours = read_sae(tmp_path)
    torch.testing.assert_close(ours(X), trainer.ae(X), rtol=1e-4, atol=1e-4)
    assert ours.metadata["imported"]["model"] == "tiny"


def test_our_file_computes_the_same_there(tmp_path):
    sae = ExpanderSae(d_in=16, n_latents=80, degree=4, k=5, latent_bias=True, reading=Encoder()).eval()
    with torch.no_grad():
        sae.b_enc.normal_()
        sae.b_dec.normal_()
    write_sae(sae, tmp_path, "dictionary_learning")
    theirs = AutoEncoderTopK.from_pretrained(tmp_path / "ae.pt")
    torch.testing.assert_close(theirs(X), sae(X), rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "config.json").read_text())["trainer"]["dict_class"] == "AutoEncoderTopK"
