"""Whether the hub can be reached, found out in seconds: its own retries take half a minute."""

import os
import socket
import threading
import urllib.parse
import urllib.request

SECONDS = 3.0
"""How long to wait for the first sign of the hub."""


def hub_is_off() -> bool:
    """Whether nothing can be had from the hub now: its use is forbidden, or its address does not answer.

    Behind a proxy only the proxy is asked. A slow hub that answers at all counts as there.
    """
    import huggingface_hub.constants as constants

    if constants.HF_HUB_OFFLINE:
        return True
    url = urllib.parse.urlparse(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urllib.parse.urlparse(proxy if "://" in proxy else f"http://{proxy}")
    port = url.port or (80 if url.scheme == "http" else 443)
    return not _answers(url.hostname or "", port)


def _answers(host: str, port: int) -> bool:
    found = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=SECONDS).close()
            found.set()
        except OSError:
            pass

    # In a thread: looking a name up has no time limit of its own.
    asking = threading.Thread(target=connect, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return found.is_set()


def offline_hint() -> str:
    """What to do about a hub that cannot be reached, as a sentence."""
    if os.environ.get("HF_HUB_OFFLINE"):
        return "Downloads are forbidden by HF_HUB_OFFLINE."
    return "The hub cannot be reached: check the network, or give a local folder."
