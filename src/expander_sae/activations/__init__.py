"""Text and a language model in; shards of activations, shuffled streams and the text of the splice out."""

from .documents import read_documents
from .harvest import harvest
from .items import harvest_items
from .models import (
    LanguageModel,
    d_in_of,
    load_language_model,
    load_tokenizer,
    n_blocks,
    residual_after_block,
    splice_after_block,
)
from .offline import convert_offline_model, extract_offline_text, make_offline, sanity_check
from .shards import ActivationStore
from .stream import ActivationStream
from .tokens import TokenBlocks, TokenizedText, tokenize

__all__ = [
    "ActivationStore",
    "ActivationStream",
    "LanguageModel",
    "TokenBlocks",
    "TokenizedText",
    "convert_offline_model",
    "d_in_of",
    "extract_offline_text",
    "harvest",
    "harvest_items",
    "load_language_model",
    "load_tokenizer",
    "make_offline",
    "n_blocks",
    "read_documents",
    "residual_after_block",
    "sanity_check",
    "splice_after_block",
    "tokenize",
]
