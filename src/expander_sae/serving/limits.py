"""How much a server takes at once, and the error of a request that is refused."""

from __future__ import annotations

from dataclasses import dataclass

from expander_sae.records import ExpanderSaeError


@dataclass(frozen=True)
class Limits:
    """What a server does not go beyond."""

    window: float = 0.005
    """Seconds that a batch waits for more requests after its first one; 0: every request is answered alone."""
    queue: int = 64
    """Requests that wait for the model; the next one is refused (429)."""
    batch: int = 8192
    """Tokens of one forward pass, padding included."""
    tokens: int = 8192
    """Tokens or activations of one request (413)."""
    texts: int = 64
    """Texts of one request (413)."""
    body: int = 32 * 1024 * 1024
    """Bytes of one request (413)."""
    held: int = 512 * 1024 * 1024
    """Bytes of all requests together that are being read or wait; beyond it requests are refused (429)."""
    reading: float = 10.0
    """Seconds that a client may take to send a request (408)."""
    drain: int = 30
    """Seconds that requests have to end in once the server is told to stop."""


class RefusedError(ExpanderSaeError):
    """A request that cannot be answered, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
