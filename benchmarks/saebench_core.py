"""SAEBench's core evaluation of SAEs of this package on a local language model, beside our own on the same tokens.

    make saebench SAES="demo-out/frontier/seed0/expander-d7" MODEL=demo-out/base/model TEXT=demo-out/base/text.jsonl

runs in `.venv-saebench`, which has the releases that SAEBench pins. It calls SAEBench's `run_evals` with nothing
ignored, remembers which tokens it drew, and computes our metrics on those. docs/guides/from-saelens.md
says where the two agree.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from sae_bench.sae_bench_utils.general_utils import _standardize_sae_cfg, check_decoder_norms
from sae_lens.training.activations_store import ActivationsStore
from transformer_lens.model_bridge import TransformerBridge

from expander_sae.activations import load_language_model
from expander_sae.activations.tokens import TokenBlocks
from expander_sae.evaluation import ReconstructionAccumulator
from expander_sae.evaluation.cross_entropy import cross_entropy
from expander_sae.interop.saebench import SaeBenchAdapter
from expander_sae.records import ExpanderSaeError, write_json
from expander_sae.saes import load_sae


def read_texts(path, count):
    """The first texts of a .jsonl file."""
    texts = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            if len(texts) == count:
                break
    if not texts:
        raise ExpanderSaeError(f"expected lines of JSON with a text in {path}; found none")
    return texts


def saebench(adapter, model, texts, settings):
    """SAEBench's numbers, and the batches of tokens it drew: for reconstruction in the model, and for the rest."""
    check_decoder_norms(adapter.W_dec.data)
    _standardize_sae_cfg(adapter.cfg)
    store = ActivationsStore.from_sae(
        model,
        adapter,
        dataset=Dataset.from_dict({"text": texts}),
        streaming=False,
        total_tokens=len(texts),
        store_batch_size_prompts=settings.batch_size,
        context_size=settings.context,
    )
    batches, draw = [], store.get_batch_tokens
    store.get_batch_tokens = lambda size: batches.append(draw(size)) or batches[-1]
    config = CoreEvalConfig(
        model_name=adapter.cfg.model_name,
        batch_size_prompts=settings.batch_size,
        n_eval_reconstruction_batches=settings.ce_batches,
        n_eval_sparsity_variance_batches=settings.batches,
        context_size=settings.context,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=settings.weights,
    )
    metrics, features = run_evals(adapter, store, model, config)
    flat = {name: value for group in metrics.values() for name, value in group.items()}
    density = torch.tensor(features["feature_density"])
    flat["frac_alive"] = float((density > 0).float().mean())
    return flat, torch.cat(batches[: settings.ce_batches]), torch.cat(batches[settings.ce_batches :])


@torch.no_grad()
def ours(sae, language_model, ce_tokens, tokens, layer):
    """Our numbers on the same tokens, spliced at every position as SAEBench does when it ignores none."""
    from expander_sae.activations.models import residual_after_block

    sums = ReconstructionAccumulator(sae.d_in, sae.n_latents)
    for batch in tokens.split(8):
        x = residual_after_block(language_model.model, batch, torch.ones_like(batch), layer).reshape(-1, sae.d_in)
        codes = sae.encode(x.float())
        sums.update(x.float(), sae.decode(codes), codes)
    result = sums.result()
    lengths = torch.full((len(ce_tokens),), ce_tokens.shape[1], dtype=torch.int32)
    blocks = TokenBlocks(ce_tokens.int(), lengths, torch.zeros_like(ce_tokens, dtype=torch.bool))
    loss = cross_entropy(
        {"sae": sae}, language_model, blocks, layer=layer, mean=result.mean.float(), splice="everywhere"
    )["sae"]
    return result, loss


PAIRS = (
    # SAEBench's name, ours, whether the definitions are the same
    ("l0", lambda result, loss: result.l0, True),
    ("cossim", lambda result, loss: result.cosine, True),
    ("frac_alive", lambda result, loss: 1 - result.dead_fraction, "nearly: latents with negative codes count as dead"),
    ("explained_variance", lambda result, loss: result.explained_variance, "no: see docs/guides/from-saelens.md"),
    ("ce_loss_without_sae", lambda result, loss: loss.ce_clean, True),
    ("ce_loss_with_sae", lambda result, loss: loss.ce_recon, True),
    ("ce_loss_with_ablation", lambda result, loss: loss.ce_zero, True),
    ("ce_loss_score", lambda result, loss: loss.ce_recovered_zero, True),
    ("kl_div_with_sae", lambda result, loss: loss.kl, "nearly: last positions count"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saes", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--text", type=Path, required=True, help=".jsonl, a text a line")
    parser.add_argument("--texts", type=int, default=200, help="how many lines to read")
    parser.add_argument("--layer", type=int, help="[default: the one the SAE was trained on]")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--batches", type=int, default=8, help="for reconstruction and sparsity")
    parser.add_argument("--ce-batches", type=int, default=4, help="for cross entropy and KL")
    parser.add_argument("--weights", action="store_true", help="cosines between all latents too")
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    texts = read_texts(settings.text, settings.texts)
    language_model = load_language_model(str(settings.model), dtype="float32")
    model = TransformerBridge.boot_transformers(str(settings.model), dtype=torch.float32, device="cpu")
    written = {}
    for folder in settings.saes:
        sae = load_sae(folder)
        adapter = SaeBenchAdapter(
            sae, model_name=str(settings.model), layer=settings.layer, context_size=settings.context, prepend_bos=False
        )
        theirs, ce_tokens, tokens = saebench(adapter, model, texts, settings)
        result, loss = ours(sae, language_model, ce_tokens, tokens, adapter.cfg.hook_layer)
        rows = [(name, theirs[name], float(read(result, loss)), same) for name, read, same in PAIRS]
        print(f"\n{folder}: {sae.reading}, {tokens.numel()} tokens, {ce_tokens.numel()} for cross entropy")
        print(f"{'':24}{'SAEBench':>12}{'ours':>12}  same definition")
        for name, one, other, same in rows:
            print(f"{name:24}{one:12.5f}{other:12.5f}  {'yes' if same is True else same}")
        written[str(folder)] = {
            "inference": str(sae.reading),
            "saebench": theirs,
            "compared": {name: {"saebench": one, "ours": other, "same": same} for name, one, other, same in rows},
        }
    if settings.json is not None:
        write_json(settings.json, written)


if __name__ == "__main__":
    main()
