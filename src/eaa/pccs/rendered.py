"""Answers that were rendered once and are kept: until the store changes, or a document in them comes of age.

An answer is kept for the very path and query that asked for it. It cannot outlive its document, because it carries the
moment up to which it may be given; nor a change, because it belongs to a generation of the store.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from eaa.pccs.wire import Request, Response

MAX_RENDERED: Final = 4096
"""Answers; each has a few KiB."""
MAX_KEY: Final = 2048
"""Characters of path and query of an answer that is kept."""

Key = tuple[str, str]


@dataclass(slots=True)
class RenderedAnswers:
    """Kept answers, the least recently given of which goes first. Thread-safe."""

    generation: int = -1
    """Of the store, as far as is known; answers of another one are not kept."""
    _answers: OrderedDict[Key, Response] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def renew(self, generation: int) -> None:
        """Forget every answer unless the store is still of this generation."""
        with self._lock:
            if generation != self.generation:
                self._answers.clear()
                self.generation = generation

    def get(self, request: Request, *, now: datetime) -> Response | None:
        """Return the answer that is kept for a GET or HEAD."""
        if request.method not in ("GET", "HEAD"):
            return None
        key = (request.path, request.query)
        with self._lock:
            answer = self._answers.get(key)
            if answer is None:
                return None
            if answer.keep_until is None or now >= answer.keep_until:
                del self._answers[key]
                return None
            self._answers.move_to_end(key)
            return answer

    def put(self, request: Request, answer: Response, *, generation: int) -> None:
        """Keep an answer that was rendered while the store was of this generation."""
        key = (request.path, request.query)
        if answer.keep_until is None or len(request.path) + len(request.query) > MAX_KEY:
            return
        with self._lock:
            if generation != self.generation:
                return
            self._answers[key] = answer
            if len(self._answers) > MAX_RENDERED:
                self._answers.popitem(last=False)
