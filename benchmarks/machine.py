"""The processor by name; without torch, which takes seconds to import."""

import platform
from pathlib import Path


def cpu() -> str:
    """Its model, as the kernel names it, or the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
