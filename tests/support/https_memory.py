"""Both ends of a TLS connection of the standard library in memory: contexts of ours, and those of strangers."""

from __future__ import annotations

import functools
import os
import ssl
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from eaa.appraise.result import Accepted, Attests, BindingLevel, Role
from eaa.errors import Reason, Rejection
from eaa.https import AttestedContext, Peer
from eaa.tls.certificate import PrivateKey, RATLSCertificate
from support.tls_world import make_identity

ROUNDS = 8


class Credentials(Protocol):
    """A key with its certificate."""

    @property
    def private_key(self) -> PrivateKey: ...

    @property
    def certificate(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials that a test makes up."""

    private_key: PrivateKey
    certificate: bytes

    @classmethod
    def create(cls) -> Keys:
        made = make_identity()
        assert isinstance(made.key, ec.EllipticCurvePrivateKey)
        return cls(made.key, made.certificate)


class Judge:
    """Accepts what a test lets it accept, and remembers what it saw. It stands in where evidence is not the point."""

    def __init__(self) -> None:
        self.accepts = True
        self.seen: list[bytes | None] = []

    def __call__(self, certificate: bytes | None) -> Peer:
        self.seen.append(certificate)
        if certificate is None or not self.accepts:
            raise Rejection(Reason.MEASUREMENT_MISMATCH, "the test says so")
        verdict = Accepted(
            role=Role.CLIENT,
            binding=BindingLevel.CERT,
            evidence_digest=bytes(32),
            report_data=bytes(64),
            checks=(),
            reference_value="test",
            attests=Attests.PROCESS,
        )
        return Peer(certificate=RATLSCertificate.parse(certificate), verdict=verdict, facts=None)


def attested(keys: Credentials | None, *, server_side: bool, judge: Judge | None = None) -> AttestedContext:
    """A context of ours whose judge is the test."""
    return AttestedContext(
        server_side=server_side, judge=judge or Judge(), credentials=None if keys is None else lambda: keys
    )


def stranger(keys: Credentials | None, *, server_side: bool, tls_1_2: bool = False) -> ssl.SSLContext:
    """A context of the standard library that trusts everybody, and asks nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls_1_2:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if keys is not None:
        load(context, keys)
    return context


@functools.lru_cache(maxsize=4)
def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def load(context: ssl.SSLContext, keys: Credentials, *more: bytes) -> None:
    """Give a context a certificate and its key, and perhaps more certificates above."""
    number = os.memfd_create("keys")
    with os.fdopen(number, "wb") as file:
        for certificate in (keys.certificate, *more):
            file.write(ssl.DER_cert_to_PEM_cert(certificate).encode())
        file.write(_pem(keys.private_key))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{number}")


class Wire:
    """Two ends that have not begun, and what each of them ended with."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, **options: Any) -> None:
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname="a.name", **options)
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        self.outcome: dict[str, Exception | None] = {}

    def handshake(self) -> Wire:
        """Drive both ends until both are done, or nothing moves any more."""
        for _ in range(ROUNDS):
            for name, end in (("client", self.client), ("server", self.server)):
                if name not in self.outcome:
                    self._step(name, end)
        return self

    def _step(self, name: str, end: ssl.SSLObject) -> None:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            self.outcome[name] = error
            return
        self.outcome[name] = None

    @property
    def connected(self) -> bool:
        """Whether both ends think so."""
        return self.outcome == {"client": None, "server": None}
