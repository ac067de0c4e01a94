"""How much memory this process takes, at rest and at most."""

import gc
import threading
from pathlib import Path

import psutil

# Linux keeps the peak itself, and forgets it when told to; elsewhere it is sampled.
KERNEL_PEAK = Path("/proc/self/status")
FORGET_PEAK = Path("/proc/self/clear_refs")
SAMPLING_SECONDS = 0.005


class PeakMemory:
    """The resident memory from now on, above what it is now."""

    def __init__(self) -> None:
        gc.collect()
        self._process = psutil.Process()
        self._peak_bytes = self.idle_bytes = self._process.memory_info().rss
        self._is_done = threading.Event()
        self._is_kept_by_kernel = _forget_peak()
        if not self._is_kept_by_kernel:
            threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self._is_done.wait(SAMPLING_SECONDS):
            self._peak_bytes = max(self._peak_bytes, self._process.memory_info().rss)

    def stop(self) -> int:
        """Return the bytes by which the peak exceeds the memory at rest."""
        self._is_done.set()
        peak = _kernel_peak_bytes() if self._is_kept_by_kernel else self._peak_bytes
        return max(peak - self.idle_bytes, 0)


def _forget_peak() -> bool:
    try:
        FORGET_PEAK.write_text("5")
    except OSError:
        return False
    return True


def _kernel_peak_bytes() -> int:
    for line in KERNEL_PEAK.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.removesuffix("kB")) * 1024
    raise RuntimeError(f"{KERNEL_PEAK} does not tell the peak")
