"""When to send again: only what the server refused before it began, at the time it names."""
from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Optional

from .errors import DeadlineExceeded, TesseraError


@dataclass(frozen=True)
class Retry:
    """At most `attempts` in all, and no wait longer than `longest` seconds. attempts=1: never again."""

    attempts: int = 4
    longest: float = 30.0


class Attempts:
    """One call's: how often it was sent, and how much of its time is left."""

    def __init__(self, retry: Retry, timeout: Optional[float]) -> None:
        self._retry = retry
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._made = 1

    def time_left(self) -> Optional[float]:
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "the time is over")
        return left

    def wait_after(self, error: TesseraError) -> Optional[float]:
        """Seconds to wait before the next attempt; None: there is none."""
        if error.retry_after is None or self._made >= self._retry.attempts:
            return None
        # Those that were refused together do not come back together.
        wait = error.retry_after * random.uniform(1, 1.25)
        if wait > self._retry.longest:
            return None
        if self._deadline is not None and time.monotonic() + wait >= self._deadline:
            return None
        self._made += 1
        return wait
