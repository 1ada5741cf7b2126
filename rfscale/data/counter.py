"""Counter-based random numbers: a value is a hash of its keys, so it can be asked for in any order and in any cut.

numpy's generators are not used because numpy promises their streams only within one version; these few integer
operations give the same bits on every platform and in every version.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

UIntArray = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(value: UIntArray) -> UIntArray:
    """The SplitMix64 finaliser (Steele, Lea and Flood 2014), a bijection of 64-bit integers."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


def hash64(*keys: npt.ArrayLike) -> UIntArray:
    """64 random bits per tuple of keys; the keys are non-negative integers and broadcast against one another."""
    state = np.zeros(1, dtype=np.uint64)  # never 0-d: numpy warns when scalars wrap around, and here they should
    for key in keys:
        state = _mix(state + _GOLDEN + _mix(np.atleast_1d(np.asarray(key, dtype=np.uint64)) + _GOLDEN))
    return state


def uniform(*keys: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits, one per tuple of keys."""
    return (hash64(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    order = np.argsort(hash64(seed, epoch, np.arange(size)), kind="stable")
    order.flags.writeable = False  # shared by every caller of the cache
    return order


def shuffled_stream(seed: int, first: int, count: int, size: int) -> npt.NDArray[np.int64]:
    """Positions first .. first + count - 1 of the endless stream over `size` items.

    Each epoch is a fresh permutation keyed by (seed, epoch): every item is seen once before any is seen again.
    """
    number = np.arange(first, first + count, dtype=np.int64)
    epochs, places = number // size, number % size
    stream = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        stream[chosen] = _permutation(seed, int(epoch), size)[places[chosen]]
    return stream
