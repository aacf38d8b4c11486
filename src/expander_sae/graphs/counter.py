"""A counter-based random stream that yields the same numbers on every platform and numpy version.

numpy keeps its bit generators stable but not the distributions on top of them, and a mask has to be
reproducible from a handful of integers for ever. So the few draws that masks need are written out here.
"""

import hashlib

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOW_32 = np.uint64(0xFFFFFFFF)
_CHUNK = 1 << 20  # draws made at once; the numbers do not depend on it


class CounterStream:
    """The sequence mix(key + i * gamma), i = 1, 2, ..., of 64-bit integers (SplitMix64).

    The key is the first eight bytes of the SHA-256 of a text, so streams of different texts are unrelated.

    Args:
        label: names the stream, for instance `"uniform|512|4096|7|0"`.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Example:
        >>> int(CounterStream("example").integers(6, 1)[0]) in range(6)
        True
    """

    def __init__(self, label: str) -> None:
        digest = hashlib.sha256(f"expander-sae mask 1|{label}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "little")
        self._used = 0

    def words(self, count: int) -> np.ndarray:
        """The next `count` 64-bit words, uint64 [count]."""
        start = (self._key + (self._used + 1) * int(_GAMMA)) & 0xFFFFFFFFFFFFFFFF
        self._used += count
        # Array operations on uint64 wrap silently, which is what the generator asks for.
        word = np.arange(count, dtype=np.uint64) * _GAMMA
        word += np.uint64(start)
        word ^= word >> np.uint64(30)
        word *= _MIX_1
        word ^= word >> np.uint64(27)
        word *= _MIX_2
        word ^= word >> np.uint64(31)
        return word

    def integers(self, bound: int, count: int, dtype: type[np.unsignedinteger] = np.uint64) -> np.ndarray:
        """The next `count` integers in [0, bound), [count]; floor(word * bound / 2^64).

        No value's probability is off by more than a factor 1 + bound / 2^64. `bound` is at most 2^32.
        """
        out = np.empty(count, dtype)
        scale = np.uint64(bound)
        for first in range(0, count, _CHUNK):
            word = self.words(min(_CHUNK, count - first))
            high = word >> np.uint64(32)
            high *= scale
            word &= _LOW_32
            word *= scale
            word >>= np.uint64(32)
            high += word
            high >>= np.uint64(32)
            out[first : first + len(high)] = high
        return out

    def shuffled(self, items: np.ndarray, *, bits: int) -> np.ndarray:
        """`items` (non-negative integers below 2^bits) in random order.

        A random word with the item in its low bits is sorted as one number: no index array, and the result
        cannot depend on which sorting algorithm numpy picks. Two items whose 64 - bits random bits coincide
        come out in increasing order; with at most 24 bits of item that is negligible.
        """
        keys = np.empty(len(items), np.uint64)
        for first in range(0, len(items), _CHUNK):
            part = items[first : first + _CHUNK]
            word = self.words(len(part))
            word >>= np.uint64(bits)
            word <<= np.uint64(bits)
            word |= part.astype(np.uint64)
            keys[first : first + len(part)] = word
        keys.sort()
        keys &= np.uint64((1 << bits) - 1)
        return keys.astype(items.dtype)
