"""What a refused peer looks like to the caller of an HTTP library.

A library wraps what a handshake raises in exceptions of its own. Somewhere in their chain stands `AttestationFailed`,
and `refusal_of` finds it.
"""

from __future__ import annotations

import ssl
from typing import Final

from eaa.appraise.result import Check, Rejected
from eaa.errors import EAAError, Reason, Rejection

MAX_CHAIN: Final = 64
"""Exceptions of one chain that are looked at; libraries wrap three or four times."""


class AttestationFailed(ssl.SSLError):
    """The peer was refused, or refused this side, inside the TLS handshake.

    It is an `ssl.SSLError`, because that is what HTTP libraries expect of a handshake. `__cause__` is `error`.

    Attributes:
        error: the failure itself: Rejection, VerificationError, MalformedInput, Unavailable or PeerMisbehaved.
    """

    reason: Reason
    """The stable code of `error`. In other exceptions of TLS, OpenSSL's own word stands here."""

    def __init__(self, error: EAAError) -> None:
        hint = f" (hint: {error.hint})" if error.hint else ""
        super().__init__(int(ssl.SSLErrorNumber.SSL_ERROR_SSL), f"attestation failed: {error}{hint}")
        self.error = error
        self.reason = error.reason
        self.__cause__ = error

    @property
    def hint(self) -> str | None:
        """What to do next, None where there is nothing to say."""
        return self.error.hint

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check that ran; none where the evidence could not be judged, or where the peer judged this side."""
        judgement = self.error.result if isinstance(self.error, Rejection) else None
        result = getattr(judgement, "result", None)
        return result.checks if isinstance(result, Rejected) else ()

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """The checks that failed, the one that explains most first."""
        return tuple(check for check in self.checks if not check.passed)


def refusal_of(error: BaseException) -> AttestationFailed | None:
    """Return why attestation refused, from whatever an HTTP library raised; None where it was something else.

    Causes and contexts are followed, and exceptions that others carry as arguments: urllib3 and requests do that.
    """
    pending, seen = [error], 0
    while pending and seen < MAX_CHAIN:
        looked_at, seen = pending.pop(0), seen + 1
        if isinstance(looked_at, AttestationFailed):
            return looked_at
        if isinstance(looked_at, EAAError):
            return AttestationFailed(looked_at)
        inner = [looked_at.__cause__, looked_at.__context__, getattr(looked_at, "reason", None), *looked_at.args]
        inner += getattr(looked_at, "exceptions", ())
        pending += [item for item in inner if isinstance(item, BaseException)]
    return None
