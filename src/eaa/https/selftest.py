"""Does this Python's `ssl` do what `eaa.https` rests on? Real handshakes in memory, when the package is imported.

Nothing that is asked here is documented, so no version number can answer it:

1. The classes of `ssl` are Python's own, and nobody's replacements.
2. A handshake in which both sides accept succeeds; each side judged exactly the other's leaf; data passes.
3. A side that refuses stops the handshake, whichever side it is, also where the same leaf was accepted before.
4. A TLS object that was made around our methods refuses everybody.

2 and 3 are tried in both ways in which libraries make connections: on sockets, and without.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from eaa.appraise.result import Accepted, Attests, BindingLevel, Role
from eaa.errors import Misuse, Reason, Rejection
from eaa.https.context import AttestedContext
from eaa.https.judging import Peer
from eaa.https.loops import foreign_ssl_classes
from eaa.https.refusal import AttestationFailed
from eaa.tls.certificate import RATLSCertificate, create_certificate

_ROUNDS: Final = 6
_HELLO: Final = b"hello"
_Ends = tuple[ssl.SSLObject, ssl.SSLObject] | tuple[ssl.SSLSocket, ssl.SSLSocket]
"""The client's and the server's."""


class _Credentials(NamedTuple):
    private_key: ec.EllipticCurvePrivateKey
    certificate: bytes


class _Judge:
    """Accepts or refuses every leaf, and remembers which it saw."""

    def __init__(self) -> None:
        self.accepts = True
        self.seen: list[bytes | None] = []

    def __call__(self, certificate: bytes | None) -> Peer:
        self.seen.append(certificate)
        if certificate is None or not self.accepts:
            raise Rejection(Reason.NO_EVIDENCE, "a refusal for the self-test")
        return Peer(certificate=RATLSCertificate.parse(certificate), verdict=_VERDICT, facts=None)


_VERDICT: Final = Accepted(
    role=Role.CLIENT,
    binding=BindingLevel.CERT,
    evidence_digest=bytes(32),
    report_data=bytes(64),
    checks=(),
    reference_value="self-test",
    attests=Attests.PROCESS,
)


def run() -> None:
    """Raise Misuse, TLS_SELF_TEST_FAILED, unless everything is as it has to be."""
    try:
        failed = _failed()
    except Exception as error:  # noqa: BLE001  a patch may break anything in any way
        failed = f"{type(error).__name__}, {error}"
    if failed is not None:
        raise Misuse(
            Reason.TLS_SELF_TEST_FAILED,
            f"the ssl module of this Python ({ssl.OPENSSL_VERSION}) cannot attest inside a handshake: {failed}",
            hint="something may have patched the ssl module before eaa.https was imported; "
            "eaa.aio has attested connections that do not rest on it",
        )


def _failed() -> str | None:
    """Return the first thing that is not as it has to be."""
    # 1.
    if strangers := foreign_ssl_classes():
        return f"classes of {', '.join(strangers)} stand in the place of its own"
    credentials = [_make_credentials(), _make_credentials()]
    judges = [_Judge(), _Judge()]
    client, server = (
        AttestedContext(server_side=side == 1, judge=judges[side], credentials=lambda own=credentials[side]: own)  # type: ignore[misc]
        for side in (0, 1)
    )
    for make_ends in (_in_memory, _on_sockets):
        for judge in judges:
            judge.seen.clear()
        fault = _fault_between_peers(functools.partial(make_ends, client, server), judges, credentials)
        if fault is not None:
            return fault
    # 4.
    for around in (client, server):
        with _in_memory(client, server, around=around) as ends:
            if not isinstance(_shake_hands(ends), ssl.SSLError):
                return "a TLS object that was made around the context lets peers in"
    return None


def _fault_between_peers(
    make_ends: Callable[[], contextlib.AbstractContextManager[_Ends]],
    judges: list[_Judge],
    credentials: list[_Credentials],
) -> str | None:
    """Return the first thing that is not as it has to be between two ends of ours."""
    # 2.
    with make_ends() as ends:
        failure = _shake_hands(ends)
        if failure is not None:
            return f"two accepted peers cannot connect ({failure})"
        if [judge.seen for judge in judges] != [[peer.certificate] for peer in reversed(credentials)]:
            return "the certificates that were judged are not the peers'"
        ends[0].write(_HELLO)
        if ends[1].read(len(_HELLO)) != _HELLO:
            return "no data passes"
    # 3.
    for judge in judges:
        judge.accepts = False
        with make_ends() as ends:
            if not isinstance(_shake_hands(ends), AttestationFailed):
                return "a refused peer is connected"
        judge.accepts = True
    return None


def _shake_hands(ends: _Ends) -> Exception | None:
    """Have two ends shake hands; return what stopped them."""
    for _ in range(_ROUNDS):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
            except ssl.SSLError as error:
                return error
        if not waiting:
            return None
    return TimeoutError("the handshake hangs")


@contextlib.contextmanager
def _in_memory(
    client: AttestedContext, server: AttestedContext, *, around: AttestedContext | None = None
) -> Iterator[_Ends]:
    """Make two ends without a socket. The context `around` is used as a stranger would use it."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    yield (
        _wrap(client, to_client, to_server, server_side=False, around=client is around),
        _wrap(server, to_server, to_client, server_side=True, around=server is around),
    )


@contextlib.contextmanager
def _on_sockets(client: AttestedContext, server: AttestedContext) -> Iterator[_Ends]:
    """Make two ends on a pair of sockets, where nothing is waited for."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)  # noqa: FBT003  its signature
    with (
        client.wrap_socket(pair[0], do_handshake_on_connect=False) as one,
        server.wrap_socket(pair[1], server_side=True, do_handshake_on_connect=False) as other,
    ):
        yield one, other


def _wrap(
    context: AttestedContext, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *, server_side: bool, around: bool
) -> ssl.SSLObject:
    if around:
        made: ssl.SSLObject = super(AttestedContext, context)._wrap_bio(incoming, outgoing, server_side=server_side)  # type: ignore[misc]
        return made
    return context.wrap_bio(incoming, outgoing, server_side=server_side)


def _make_credentials() -> _Credentials:
    key = ec.generate_private_key(ec.SECP256R1())
    begin, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)
    return _Credentials(key, create_certificate(key, evidence=None, not_before=begin, not_after=end))
