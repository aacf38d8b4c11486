"""Where the browser's pages are, and opening them."""

from __future__ import annotations

import contextlib
import webbrowser

from expander_sae.web.guard import Access
from expander_sae.web.listening import base_address

PORT = 7341
"""Where the browser is unless it is told otherwise."""


def address_of(host: str, port: int, access: Access) -> str:
    """What to open in a browser."""
    return base_address(host, port) + ("" if access.token is None else f"?token={access.token}")


def open_in_browser(address: str) -> None:
    """Have the desktop's browser open it; where there is none, the printed address is enough."""
    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(address)
