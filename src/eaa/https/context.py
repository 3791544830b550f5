"""An `ssl.SSLContext` that attests: what HTTP libraries are given.

To them it is an ordinary context. It trusts nobody and, on a server, has no certificate: whoever makes a TLS object
from it in another way than `wrap_socket` and `wrap_bio` gets one that refuses every peer. Those two move the new
connection to a context of the current generation, where its handshake is judged (`eaa.https.handshake`).
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn, Protocol, Self

from eaa.appraise.result import Role
from eaa.errors import EAAError, Misuse, Reason
from eaa.https.handshake import AttestedObject, AttestedSocket, Handshake
from eaa.https.judging import PeerJudge, Verifier, judge_by
from eaa.https.loops import refuse_foreign_event_loops
from eaa.https.trust import Credentials, Generation, restrict

RENEWAL_POLL: Final = 10.0
"""Seconds between two looks at whether the identity has new credentials; it has them half a lifetime ahead."""

_SETTLED: Final = frozenset(
    {
        *("verify_mode", "verify_flags", "check_hostname", "minimum_version", "maximum_version", "options"),
        *("keylog_filename", "post_handshake_auth", "sni_callback", "num_tickets"),
    }
)
"""Attributes that nobody changes any more: libraries set some of them to what they think best."""

_log: Final = logging.getLogger("eaa.https")


class Identity(Protocol):
    """Who this program is; `eaa.identity.Identity` is one."""

    def credentials(self) -> Credentials:
        """Return the current credentials. May take long where new ones are due."""


def client_context(
    verifier: Verifier, *, identity: Identity | None = None, role: Role = Role.WORKLOAD
) -> AttestedContext:
    """Return a context for clients: nothing is sent to a server whose evidence was not accepted.

    Args:
        verifier: judges servers; its policy has to allow the binding level `cert`.
        identity: shown to servers that ask; without one, this side has no certificate.
        role: in which servers have to be accepted.

    Raises:
        Misuse: EVENT_LOOP_BYPASSES_TLS.
        Unavailable: QUOTE_UNAVAILABLE.
    """
    refuse_foreign_event_loops()
    credentials = None if identity is None else identity.credentials
    return AttestedContext(server_side=False, judge=judge_by(verifier, role), credentials=credentials)


def server_context(
    identity: Identity, *, verifier: Verifier | None = None, role: Role = Role.CLIENT
) -> AttestedContext:
    """Return a context for servers.

    Args:
        identity: shown to every client.
        verifier: judges clients, and the application hears of none that was not accepted. Without one, every client is
            served, and none is asked for a certificate.
        role: in which clients have to be accepted.

    Raises:
        Misuse: EVENT_LOOP_BYPASSES_TLS.
        Unavailable: QUOTE_UNAVAILABLE.
    """
    refuse_foreign_event_loops()
    judge = None if verifier is None else judge_by(verifier, role)
    # A client's caller gets the exception. On a server nobody would ever hear of it.
    return AttestedContext(server_side=True, judge=judge, credentials=identity.credentials, report=_log_refusal)


class AttestedContext(ssl.SSLContext):
    """Make one with `client_context` or `server_context`, keep it, and use it for all connections."""

    sslobject_class = AttestedObject
    sslsocket_class = AttestedSocket

    def __new__(cls, *, server_side: bool, **_others: object) -> Self:
        """Make the part that OpenSSL sees."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        *,
        server_side: bool,
        judge: PeerJudge | None,
        credentials: Callable[[], Credentials] | None,
        report: Callable[[EAAError], None] | None = None,
    ) -> None:
        """Begin with the current credentials.

        Args:
            server_side: whether it is for accepting connections.
            judge: who judges peers; None where nobody is asked for evidence.
            credentials: where to find the current ones, None where this side has no certificate.
            report: is told of every refusal.

        Raises:
            Unavailable: there are no credentials.
        """
        self._server_side = server_side
        self._judge = judge
        self._find_credentials = credentials
        self._report = report
        self._alpn: list[str] = []
        self._renewing, self._counting = threading.Lock(), threading.Lock()
        self.refusals: Counter[Reason] = Counter()
        """How many peers were refused, by reason. For metrics: reasons are a closed set."""
        restrict(self, judges=judge is not None)
        self._generation = self._generate(None if credentials is None else credentials())
        self._settled = True
        self._watch: threading.Thread | None = None
        self._watched_in: int | None = None

    def renew(self) -> None:
        """Take the identity's current credentials for new connections; those that stand are left alone.

        A thread does this every RENEWAL_POLL seconds. Raises Unavailable where there are none.
        """
        if self._find_credentials is None:
            return
        with self._renewing:
            credentials = self._find_credentials()
            if credentials is not self._generation.credentials:
                self._generation = self._generate(credentials)
                _log.info("new connections show new evidence")

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        """Offer or take these protocols, as HTTP libraries ask for."""
        self._alpn = list(alpn_protocols)
        super().set_alpn_protocols(self._alpn)
        self._generation.speak(self._alpn)

    # What the standard library makes connections with.

    def _wrap_socket(self, *args: Any, owner: Any = None, **options: Any) -> Any:
        return self._begin(super()._wrap_socket(*args, owner=owner, **options), owner)  # type: ignore[misc]

    def _wrap_bio(self, incoming: Any, outgoing: Any, *args: Any, owner: Any = None, **options: Any) -> Any:
        ssl_object = super()._wrap_bio(incoming, outgoing, *args, owner=owner, **options)  # type: ignore[misc]
        owner._outgoing = outgoing  # noqa: SLF001  one room
        return self._begin(ssl_object, owner)

    def _begin(self, ssl_object: Any, owner: Any) -> Any:
        """Move a new connection from this context, which lets nobody in, to where its handshake is judged."""
        if ssl_object.session is not None:
            raise Misuse(Reason.USAGE, "an attested connection resumes no session")
        self._keep_watching()
        generation = self._generation
        owner._handshake = Handshake(  # noqa: SLF001  one room
            tells_peer=self._server_side,
            judge=self._judge,
            trust=generation.trust,
            note=self._note,
            idle=self,
            quiet=generation.quiet,
        )
        ssl_object.context = generation.greeting
        return ssl_object

    def _generate(self, credentials: Credentials | None) -> Generation:
        return Generation(
            server_side=self._server_side, judges=self._judge is not None, credentials=credentials, alpn=self._alpn
        )

    def _note(self, refusal: EAAError) -> None:
        with self._counting:
            self.refusals[refusal.reason] += 1
        if self._report is not None:
            self._report(refusal)

    def _keep_watching(self) -> None:
        """Have a thread that looks for new credentials; a process that was forked off has lost its own."""
        if self._find_credentials is None or self._watched_in == (process := os.getpid()):
            return
        stop = threading.Event()
        weakref.finalize(self, stop.set).atexit = False
        self._watch = threading.Thread(
            target=_renew_again_and_again, args=(weakref.ref(self), stop), name="eaa-https-renewal", daemon=True
        )
        self._watch.start()
        self._watched_in = process

    # What would weaken it.

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change what security rests on."""
        if name in _SETTLED and getattr(self, "_settled", False):
            if value != getattr(self, name):
                raise Misuse(
                    Reason.USAGE,
                    f"{name} of an attested context cannot be changed to {value!r}",
                    hint="evidence decides who is trusted; leave certificates, names and TLS versions alone",
                )
            return
        super().__setattr__(name, value)

    def load_verify_locations(self, *_args: Any, **_options: Any) -> None:
        """Do nothing: evidence decides who is trusted, and no authority. Libraries call this unasked."""

    def load_default_certs(self, *_args: Any, **_options: Any) -> None:
        """Do nothing, see `load_verify_locations`."""

    def set_default_verify_paths(self) -> None:
        """Do nothing, see `load_verify_locations`."""

    def load_cert_chain(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refuse: certificate and key come from the identity."""
        raise Misuse(Reason.USAGE, "the certificate of an attested context comes from its identity")

    def set_servername_callback(self, *_args: Any) -> NoReturn:
        """Refuse: it could replace the context in the middle of a handshake."""
        raise Misuse(Reason.USAGE, "an attested context takes no callback for server names")

    def set_psk_client_callback(self, *_args: Any) -> NoReturn:
        """Refuse: with a shared key there is no certificate, and no evidence."""
        raise Misuse(Reason.USAGE, "an attested context takes no pre-shared keys")

    def set_psk_server_callback(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refuse: with a shared key there is no certificate, and no evidence."""
        raise Misuse(Reason.USAGE, "an attested context takes no pre-shared keys")


def _log_refusal(refusal: EAAError) -> None:
    if refusal.reason is Reason.PEER_REJECTED_US:
        _log.warning("refused by a client: %s", refusal)
    else:
        _log.warning("refused a client: %s", refusal)


def _renew_again_and_again(reference: weakref.ref[AttestedContext], stop: threading.Event) -> None:
    while not stop.wait(RENEWAL_POLL):
        context = reference()
        if context is None:
            return
        try:
            context.renew()
        except Exception as error:  # noqa: BLE001  the thread has to go on; what there is stays in use
            _log.warning("new credentials cannot be had: %s", error)
        del context
