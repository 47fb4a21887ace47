"""The memory of this process: how much it holds, and giving back what it needs no more (performance B5).

glibc keeps what is freed between pieces that live on. After three times eight seconds without a controller an agent
stayed 13 MB larger, for good; most of that is the system's again after one look through the heap, of 1 to 3 ms.

Python returns a mebibyte only when nothing in it lives. With more topics than a cache holds, each new one is a small
piece that does, wherever it came to lie while ten thousand results waited for a slow disk: 25 MB stayed for good. So
caches of what the outside names are forgotten when that costs little.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

T = TypeVar("T")
_caches: WeakSet[Any] = WeakSet()


def resident_bytes() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def remembering(results_max: int) -> Callable[[Callable[..., T]], _lru_cache_wrapper[T]]:
    """Like ``functools.lru_cache``, for what comes from outside and may be of more kinds than it holds.

    ``give_back`` forgets it when all of it was replaced meanwhile: then it has twice the misses at most.
    """

    def decorate(function: Callable[..., T]) -> _lru_cache_wrapper[T]:
        remembered = lru_cache(results_max)(function)
        _caches.add(remembered)
        return remembered

    return decorate


def give_back() -> None:
    """Return to the system what is free in the heap; nothing happens there where the C library cannot."""
    for remembered in _caches:
        info = remembered.cache_info()
        if info.misses >= 2 * info.maxsize:
            remembered.cache_clear()
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    import ctypes  # late: nothing else needs it, and a start is to be short

    return getattr(ctypes.CDLL(None), "malloc_trim", None)
