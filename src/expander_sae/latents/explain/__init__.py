"""What a latent is about, said by a rule over words, a phrase or a chat model, and scored on text that was held out."""

from .embedding import by_embedding
from .run import Explained, by_chat, by_words

__all__ = ["Explained", "by_chat", "by_embedding", "by_words"]
