"""What a latent is about, said by a rule over words or by a chat model, and scored on text that was held out."""

from .run import Explained, by_chat, by_words

__all__ = ["Explained", "by_chat", "by_words"]
