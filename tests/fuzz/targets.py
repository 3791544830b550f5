"""Every parser that sees a stranger's bytes, as a target for a fuzzer.

A target takes any bytes and either returns or raises what its parser documents. Whatever else comes out of it is a
finding. Seeds are made at run time, by the simulator and from the vectors where they are there: nothing of it is
stored here.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import io
import json
import struct
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from eaa import der
from eaa.appraise.floor import EvaluationFloor
from eaa.appraise.platforms import Pin, PlatformID, PlatformPins
from eaa.appraise.policy import PolicyFile
from eaa.appraise.reference_values import ReferenceValues
from eaa.appraise.result import BindingLevel, Role
from eaa.appraise.tables import load_toml
from eaa.collateral.bundle import Collateral
from eaa.collateral.intel import (
    PCKCertificate,
    QEIdentity,
    TCBInfo,
    join_signed_document,
    pck_certificate_of,
    split_signed_document,
)
from eaa.collateral.x509 import CRL, Certificate, decode_pem_text, parse_pem_chain
from eaa.errors import MalformedInput, Misuse, PeerMisbehaved, Reason, Rejection, VerificationError
from eaa.evidence import cbor
from eaa.evidence.epoch import EPOCH_CLAIMS, EpochClaims, encode_session_key, is_same_key, is_signed_by, sign_statement
from eaa.evidence.eventlog import EventLog, is_event_log
from eaa.evidence.ppid import PPIDCertification
from eaa.evidence.quote import Quote, QuoteHeader
from eaa.evidence.quote_shape import QuoteShape
from eaa.evidence.sgx import EnclaveReport
from eaa.evidence.tagged import (
    Endorsements,
    TaggedEvidence,
    encode_claims,
    parse_claims,
    pubkey_hash_claim,
    pubkey_hash_matches,
)
from eaa.evidence.tdx import TDReport, TDReport15, TDReport15Extended
from eaa.measure.sgx import encode_sgxs, identify_image, measure_flat, measure_image, measure_sgxs
from eaa.measure.sigstruct import SIGSTRUCT
from eaa.pccs.bundle import read_bundle, write_bundle
from eaa.pccs.parts import decode_part, encode_part
from eaa.pccs.policies import AppraisalPolicy
from eaa.pccs.registration import Registration
from eaa.pccs.uploads import parse_upload
from eaa.pccs.wire import Refusal
from eaa.protocol.legacy import (
    GET_ENCLAVE_INFO,
    GREETING,
    HELLO,
    VERDICTD_TEXT,
    encode_workload_reply,
    parse_greeting_reply,
    parse_legacy_request,
    parse_verdictd_echo,
)
from eaa.protocol.messages import (
    Accept,
    Attest,
    Evidence,
    FrameReader,
    Message,
    Open,
    Opened,
    Reject,
    RejectClass,
    decode,
    encode,
)
from eaa.shelter.archive import is_archive, members_of
from eaa.shelter.inspect.binaries import inspect_image, inspect_sigstruct, inspect_snp_report
from eaa.shelter.inspect.documents import inspect_crl, inspect_document
from eaa.shelter.inspect.eventlogs import inspect_event_log
from eaa.shelter.inspect.pem import from_base64, from_hex, pem_blocks, quote_from_text
from eaa.shelter.inspect.quotes import inspect_quote
from eaa.shelter.inspect.ratls import inspect_certificate
from eaa.shelter.inspect.tagged import inspect_tagged
from eaa.shelter.inspect.uploads import inspect_upload
from eaa.shelter.inspect.wire import inspect_messages, inspect_qcnl
from eaa.shelter.inspection import inspect
from eaa.simulator.cpu import LocalReport, TargetInfo
from eaa.simulator.model import PlatformModel
from eaa.simulator.pki import SimulatedPKI
from eaa.simulator.platform import ROOT_FILE, SECRETS_FILE, Platform
from eaa.sources.endorsements import collateral_of
from eaa.sources.pccs import BaseURL
from eaa.sources.qcnl import parse_qcnl
from eaa.sources.selection import Levels, SelectionError
from eaa.tls.certificate import Format, RATLSCertificate, create_certificate
from eaa.tls.leaf import read_leaf
from eaa.verifier.stapled import parse_staple
from eaa.verify.cache import VerificationCache
from eaa.verify.chain import TrustAnchors
from eaa.verify.dcap import parse_attestation_key, parse_pck_chain
from mutants.subjects import FORGES
from support.dcap_world import NOW, SGXExtension, World, pem
from support.odd_certificates import numbered
from support.vectors import AVAILABLE
from support.vectors import ROOT as VECTORS

Seeds = Callable[[], list[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One way in."""

    name: str
    run: Callable[[bytes], None]
    seeds: Seeds
    parsers: tuple[Callable[..., object], ...]
    """What it calls: a test finds the public parsers that no target calls."""
    refusals: tuple[type[Exception], ...] = (MalformedInput,)
    """What may come out instead of a result."""


def call(target: Target, data: bytes) -> bool:
    """Run one input; tell whether it was taken. Whatever the target does not document passes through."""
    try:
        target.run(data)
    except target.refusals:
        return False
    return True


TARGETS: Final[dict[str, Target]] = {}


def target(
    *parsers: Callable[..., object], seeds: Seeds, refusals: tuple[type[Exception], ...] = (MalformedInput,)
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register the function below as a target; its name is the target's."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__.strip("_").replace("_", "-")
        TARGETS[name] = Target(name=name, run=run, seeds=seeds, parsers=parsers, refusals=refusals)
        return run

    return register


# --- seeds


@functools.cache
def worlds() -> list[World]:
    """One good world of each kind."""
    return [forge() for forge in FORGES.values()]


def files(*patterns: str) -> list[bytes]:
    """Return the vectors of these names; none where they are not here."""
    if not AVAILABLE:
        return []
    return [path.read_bytes() for pattern in patterns for path in sorted(VECTORS.glob(pattern)) if path.is_file()]


def quotes() -> list[bytes]:
    """Quotes of every format."""
    real = files(
        "dcap-qvl/sgx_quote", "go-tdx-guest/quote_v5_sample.dat", "oasis-core/*eppid.bin", "trustee/tdx_quote_4*"
    )
    return [*(world.quote().encode() for world in worlds()), *real]


def collaterals() -> list[Collateral]:
    """Collateral of both kinds of TEE."""
    return [world.collateral() for world in worlds()[:2]]


def pem_chains() -> list[bytes]:
    """Chains as quotes and collateral carry them."""
    root = pem(worlds()[0].root.der())
    return [
        root,
        worlds()[0].quote().certification_data,
        collaterals()[0].tcb_info_issuer_chain,
        *files("certs/tcb_*.pem"),
    ]


def certificates() -> list[bytes]:
    """Certificates of Intel's form, DER."""
    return [raw for chain in pem_chains() for raw in parse_pem_chain(chain)]


def crls() -> list[bytes]:
    """CRLs with and without entries."""
    return [
        collaterals()[0].root_ca_crl,
        collaterals()[0].pck_crl,
        *files("automata/collateral/*crl*", "go-tdx-guest/collateral/*crl*"),
    ]


def documents(name: str) -> Seeds:
    """Return what lists TCB Infos or QE identities."""
    return lambda: [getattr(collateral, name) for collateral in collaterals()]


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(7, ec.SECP256R1())


def tagged_evidence() -> list[bytes]:
    """Evidence with claims, as certificates and messages carry it."""
    claims = encode_claims({"pubkey-hash": b"x" * 40, "nonce": bytes(32)})
    return [TaggedEvidence(evidence=quote, claims=claims).encode() for quote in (*quotes()[:2], b"q")]


def ratls_certificates() -> list[bytes]:
    """Certificates of every stack that is known."""
    evidence = TaggedEvidence.parse(tagged_evidence()[-1])
    make = functools.partial(create_certificate, _key(), not_before=NOW, not_after=NOW + timedelta(days=1))
    ours = make(evidence=evidence, endorsements=_endorsements())
    older = make(evidence=b"quote", format=Format.GRAMINE_LEGACY)
    both = make(evidence=evidence, legacy_quote=World().quote().encode())
    # The same in every run, so that a seed finds the same again.
    made = [numbered(raw, _key()) for raw in (ours, older, both)]
    return [*made, *files("certs-ratls/*.der")]


def _endorsements() -> Endorsements:
    collateral = collaterals()[0]
    return Endorsements(
        version=0x00010003,
        tcb_info=join_signed_document("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
        tcb_info_issuer_chain=b"x",
        pck_crl=collateral.pck_crl,
        root_ca_crl=collateral.root_ca_crl,
        pck_crl_issuer_chain=b"x\0",
        qe_identity=join_signed_document("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
        qe_identity_issuer_chain=b"x",
    )


def messages() -> list[bytes]:
    """Every message of the protocol, and two in a row."""
    every: list[Message] = [
        Attest(nonce=bytes(32), level=BindingLevel.FRESH),
        Evidence(evidence=b"evidence"),
        Evidence(),
        Accept(),
        Reject(reason_class=RejectClass.POLICY),
        Open(workload="payments/1"),
        Opened(),
    ]
    frames = [encode(message) for message in every]
    return [*frames, frames[0] + frames[1], *(frame[4:] for frame in frames)]


def images() -> list[bytes]:
    """A page stream and a flat image, both small."""
    stream = encode_sgxs([(0, 0x207, bytes(4096))], ssa_frame_size=1, enclave_size=8192)
    tcs = bytes(28) + b"\x02" + bytes(4096 - 29)
    flat = tcs + bytes(100) + bytes(17)
    return [
        stream,
        stream.replace(b"EEXTEND\0", b"UNMEASRD", 1),
        flat,
        *files("mrenclave/flat/*.bin", "mrenclave/own/*.sgxs"),
    ]


def sigstructs() -> list[bytes]:
    """SIGSTRUCTs: zeros with the right constants, and real ones."""
    constants = SIGSTRUCT(
        attributes=bytes(16),
        attributes_mask=bytes(16),
        enclave_hash=bytes(32),
        modulus=b"\xff" * 384,
        signature=bytes(384),
        raw_date=0x20260101,
    )
    return [constants.encode(), *files("mrenclave/*/*.sig", "mrenclave/intel/*.bin")]


def texts(*lines: str) -> Seeds:
    """Return these texts as seeds."""
    return lambda: [line.encode() for line in lines]


def _text(data: bytes) -> str:
    """Files are read as UTF-8, and refused before any parser sees them where they are none."""
    return data.decode("utf-8", "replace")


# --- evidence


@target(
    Quote.parse,
    Quote.parse_prefix,
    QuoteHeader.parse,
    parse_pck_chain,
    parse_attestation_key,
    pck_certificate_of,
    seeds=quotes,
    refusals=(MalformedInput, VerificationError),
)
def _quote(data: bytes) -> None:
    quote, trailing = Quote.parse_prefix(data)
    assert quote.encode() + trailing == data
    assert quote.encode_signed_part() == quote.signed_bytes
    for look in (
        lambda: Quote.parse(data),
        lambda: parse_attestation_key(quote),
        lambda: parse_pck_chain(quote),
        lambda: pck_certificate_of(quote.certification_data, certification_data_type=quote.certification_data_type),
    ):
        _quietly(look)


@functools.cache
def _acquainted() -> VerificationCache:
    """Return a cache that has seen the enclaves of all good worlds often enough to know the shape of their quotes."""
    cache = VerificationCache(worlds()[0].trust_anchors)
    for world in worlds():
        cache.trust_anchors = world.trust_anchors
        quote = Quote.parse(world.quote().encode())
        for _ in range(2):
            cache.verify_quote(quote, world.collateral(), now=NOW)
    return cache


@target(QuoteShape.parse, VerificationCache.parse, seeds=lambda: [world.quote().encode() for world in worlds()])
def _quote_shape(data: bytes) -> None:
    """By the shape of a quote, or by the parser: what comes out is the same, errors included."""
    answers: list[object] = []
    for parse in (Quote.parse, _acquainted().parse):
        try:
            quote = parse(data)
            answers.append((quote, quote.raw))
        except MalformedInput as error:
            answers.append((error.reason, error.message))
    assert answers[0] == answers[1]


def _quietly(look: Callable[[], object]) -> None:
    """Go on where one of several parsers refuses as it documents: the others see the input too."""
    try:
        look()
    except (MalformedInput, VerificationError, PeerMisbehaved, Misuse):
        return


_REPORTS: Final = (EnclaveReport, TDReport, TDReport15, TDReport15Extended, TargetInfo, LocalReport)


@target(
    *(report.parse for report in _REPORTS),
    PPIDCertification.parse,
    seeds=lambda: [
        *map(bytes, (384, 584, 648, 885, 512, 432)),
        b"\1" + bytes(36),
        b"\2" + bytes(276),
        b"\3" + bytes(404),
    ],
)
def _reports(data: bytes) -> None:
    for report in _REPORTS:
        try:
            parsed = report.parse(data)
        except MalformedInput:
            continue
        assert parsed.encode() == data
    PPIDCertification.parse(data[1:], kind=data[0] if data else 0)


@target(
    TaggedEvidence.parse,
    TaggedEvidence.parse_certificate_extension,
    parse_claims,
    pubkey_hash_matches,
    Endorsements.parse,
    cbor.decode,
    cbor.decode_first,
    seeds=lambda: [*tagged_evidence(), _endorsements().encode(), pubkey_hash_claim(b"key"), encode_claims({"a": b"b"})],
)
def _cbor(data: bytes) -> None:
    _quietly(lambda: Endorsements.parse(data))
    _quietly(lambda: parse_claims(data, tolerant=True))
    _quietly(lambda: parse_claims(data, tolerant=False))
    _quietly(lambda: cbor.decode_first(data, what="it"))
    pubkey_hash_matches(data, b"key")
    _quietly(lambda: TaggedEvidence.parse_certificate_extension(data))
    value = cbor.decode(data, what="it", tags=frozenset({60000}))
    assert cbor.encode(value) == data
    assert TaggedEvidence.parse(data).encode() == data


def epochs() -> list[bytes]:
    """The claims of an epoch, as its evidence covers them, with a signature by its key in front."""
    claims = EpochClaims(
        pubkey_hash=pubkey_hash_claim(b"key"),
        session_key=encode_session_key(_key().public_key()),
        role=b"workload",
        not_before=1_700_000_000,
        not_after=1_700_000_300,
    )
    return [sign_statement(_key(), b"it") + claims.encode()]


@target(EpochClaims.from_claims, seeds=epochs)
def _epoch(data: bytes) -> None:
    signature, raw = data[:64], data[64:]
    claims = parse_claims(raw, tolerant=False)
    if set(claims) != set(EPOCH_CLAIMS):
        # Who reads an epoch has looked at the names.
        raise MalformedInput(Reason.CLAIMS_MISMATCH, "the claims are not an epoch's")
    epoch = EpochClaims.from_claims(claims)
    assert epoch.encode() == raw
    is_same_key(epoch.session_key, data)
    is_signed_by(epoch.session_key, signature, b"it")


def event_logs() -> list[bytes]:
    """A log of two events, as firmware leaves it and cut to size."""
    algorithms = struct.pack("<IHH", 1, 0x000C, 48)
    content = b"Spec ID Event03\0" + bytes(8) + algorithms + b"\0"
    header = struct.pack("<II20sI", 0, 3, b"", len(content)) + content
    events = [struct.pack("<IIIH48sI", rtmr, 4, 1, 0x000C, bytes(48), 4) + b"data" for rtmr in (1, 2)]
    log = header + b"".join(events)
    return [log, log + b"\xff" * 64]


@target(EventLog.parse, seeds=event_logs)
def _event_log(data: bytes) -> None:
    is_event_log(data)
    log = EventLog.parse(data)
    assert [len(register) for register in log.replay()] == [48] * 4
    for event in log.events:
        assert event.type_name
        assert not event.covers_data or event.rtmr is not None


@target(
    RATLSCertificate.parse,
    seeds=ratls_certificates,
    refusals=(MalformedInput, VerificationError, Rejection),
)
def _ratls_certificate(data: bytes) -> None:
    certificate = RATLSCertificate.parse(data)
    assert certificate.expected_report_data is None or len(certificate.expected_report_data) == 64
    certificate.verify_binding()


@target(read_leaf, seeds=ratls_certificates, refusals=(MalformedInput, VerificationError))
def _leaf(data: bytes) -> None:
    leaf = read_leaf(data, now=NOW + timedelta(hours=1))
    assert leaf.not_before <= NOW + timedelta(hours=1) <= leaf.not_after


@target(Endorsements.parse, seeds=lambda: [_endorsements().encode()])
def _endorsements_of_a_certificate(data: bytes) -> None:
    endorsements = Endorsements.parse(data)
    assert Endorsements.parse(endorsements.encode()) == endorsements
    collateral_of(endorsements)


# --- collateral


@target(
    der.read_one,
    der.read_all,
    der.read_only,
    der.parse_oid,
    der.parse_uint,
    der.parse_boolean,
    seeds=lambda: [
        bytes.fromhex(text) for text in ("020101", "0603551d23", "0101ff", "3003020100", "30820100" + "00" * 256)
    ],
)
def _der(data: bytes) -> None:
    element, rest = der.read_one(data, what="it")
    assert element.raw + rest == data
    parsers: dict[int, Callable[[bytes], object]] = {
        der.BOOLEAN: der.parse_boolean,
        der.INTEGER: der.parse_uint,
        der.OBJECT_IDENTIFIER: der.parse_oid,
    }
    if element.tag in parsers:
        parsers[element.tag](element.content)
    else:
        der.read_all(element.content, what="it")
    der.read_only(data, tag=element.tag, what="it")


@target(Certificate.parse, PCKCertificate.parse, PCKCertificate.from_certificate, seeds=certificates)
def _certificate(data: bytes) -> None:
    certificate = Certificate.parse(data)
    assert certificate.der == data
    PCKCertificate.from_certificate(certificate)


@functools.cache
def _pck_certificate() -> Certificate:
    return Certificate.parse(worlds()[0].pck.der())


@target(
    PCKCertificate.from_certificate, seeds=lambda: [SGXExtension().encode(), _pck_certificate().sgx_extension or b""]
)
def _sgx_extension(data: bytes) -> None:
    pck = PCKCertificate.from_certificate(dataclasses.replace(_pck_certificate(), sgx_extension=data))
    assert bytes(pck.tcb_components) == pck.cpu_svn


@target(parse_pem_chain, decode_pem_text, TrustAnchors.from_pem, seeds=pem_chains, refusals=(MalformedInput, Misuse))
def _pem(data: bytes) -> None:
    assert 0 < len(parse_pem_chain(data, maximum=4)) <= 4
    assert TrustAnchors.from_pem(data).fingerprints


@target(CRL.parse, seeds=crls)
def _crl(data: bytes) -> None:
    assert CRL.parse(data).der == data


@target(TCBInfo.parse, seeds=documents("tcb_info"))
def _tcb_info(data: bytes) -> None:
    info = TCBInfo.parse(data)
    assert all(len(level.sgx_components) == 16 for level in info.tcb_levels)


@target(QEIdentity.parse, seeds=documents("qe_identity"))
def _qe_identity(data: bytes) -> None:
    assert len(QEIdentity.parse(data).mr_signer) == 32


@target(
    split_signed_document,
    seeds=lambda: [
        join_signed_document("tcbInfo", collaterals()[0].tcb_info, bytes(64)),
        join_signed_document("enclaveIdentity", collaterals()[0].qe_identity, bytes(64)),
        *files("go-tdx-guest/collateral/*qeIdentity*"),
    ],
)
def _signed_document(data: bytes) -> None:
    _quietly(lambda: split_signed_document(data, "enclaveIdentity"))
    body, signature = split_signed_document(data, "tcbInfo")
    assert body in data
    assert len(signature) == 64


@target(Collateral.from_json, seeds=lambda: [collateral.to_json() for collateral in collaterals()])
def _collateral(data: bytes) -> None:
    collateral = Collateral.from_json(data)
    assert Collateral.from_json(collateral.to_json()) == collateral


@target(parse_staple, seeds=lambda: [collateral.to_json() for collateral in collaterals()])
def _staple(data: bytes) -> None:
    assert parse_staple(data).pck_certificate_chain is None


# --- the wire


@target(decode, FrameReader.feed, seeds=messages, refusals=(PeerMisbehaved,))
def _messages(data: bytes) -> None:
    _quietly(lambda: _read_frames(data))
    message = decode(data)
    assert encode(message)[4:] == data


def _read_frames(data: bytes) -> None:
    reader = FrameReader()
    for message in reader.feed(data):
        assert FrameReader().feed(encode(message)) == [message]
    assert reader.wanted > 0


@target(
    parse_legacy_request,
    seeds=lambda: [GET_ENCLAVE_INFO, HELLO, b'{"type":"x"}', b"Hello and welcome to Enclave TLS!\n"],
    refusals=(PeerMisbehaved,),
)
def _legacy_request(data: bytes) -> None:
    parse_legacy_request(data)


@target(
    parse_greeting_reply,
    parse_verdictd_echo,
    seeds=lambda: [
        VERDICTD_TEXT.encode(),
        b"hi",
        GREETING.encode(),
        encode_workload_reply(mr_enclave=bytes(32), mr_signer=bytes(32)),
        encode_workload_reply(mr_enclave=bytes(32), mr_signer=bytes(32)) + b"\0",
    ],
    refusals=(PeerMisbehaved,),
)
def _greeting_reply(data: bytes) -> None:
    _quietly(lambda: parse_verdictd_echo(data))
    assert len(parse_greeting_reply(data, sent=b"hi")) < 64


# --- images


@target(
    identify_image,
    measure_image,
    measure_sgxs,
    measure_flat,
    seeds=images,
)
def _image(data: bytes) -> None:
    # What a flat image asks to map is hashed, up to a limit that is minutes of work here: a smaller one is looked at.
    if len(data) > 17 and int.from_bytes(data[-17:-9], "little") > 1 << 20:
        data = data[:-17] + (1 << 20).to_bytes(8, "little") + data[-9:]
    _quietly(lambda: measure_sgxs(data))
    _quietly(lambda: measure_flat(data, xfrm=7, misc_select=1))
    identify_image(data)
    assert len(measure_image(data).mr_enclave) == 32


@target(SIGSTRUCT.parse, seeds=sigstructs, refusals=(MalformedInput, VerificationError))
def _sigstruct(data: bytes) -> None:
    sigstruct = SIGSTRUCT.parse(data)
    assert sigstruct.encode() == data
    assert sigstruct.build_date is None or sigstruct.build_date.year
    sigstruct.verify_signature()


# --- what an operator writes, or was sent


_QCNL: Final = (
    '{"pccs_url": "https://localhost:8081/sgx/certification/v4/", "use_secure_cert": false, "retry_times": 6}'
)


@target(
    parse_qcnl,
    BaseURL.parse,
    seeds=texts(_QCNL, f"// a comment\n{_QCNL}", "PCCS_URL=https://localhost:8081/\nUSE_SECURE_CERT=TRUE\n# comment\n"),
    refusals=(Misuse,),
)
def _qcnl(data: bytes) -> None:
    config = parse_qcnl(_text(data), name="it")
    BaseURL.parse(config.pccs_url)


_VALUE: Final = f"""[web]
role = "workload"
attests = "process"
trust_anchor = "{"ab" * 32}"
mr_enclave = "{"cd" * 32}"
"""
_POLICY: Final = """allowed_tcb_statuses = ["UpToDate", "SWHardeningNeeded"]
collateral_grace_hours = 24
minimum_binding = "session"
[relay]
isv_prod_id = 7
"""


@target(ReferenceValues.parse, PolicyFile.parse, load_toml, seeds=texts(_VALUE, _POLICY), refusals=(Misuse,))
def _toml(data: bytes) -> None:
    text = _text(data)
    _quietly(lambda: PolicyFile.parse(text))
    values = ReferenceValues.parse(text)
    assert ReferenceValues.parse("\n".join(value.encode() for value in values)) == values


def _floor_file() -> list[bytes]:
    floor = EvaluationFloor({(bytes(32), "sgx-tcb-info"): 17, (bytes(32), "sgx-qe-identity"): 18})
    return [EvaluationFloor().encode().encode(), floor.encode().encode()]


@target(EvaluationFloor.parse, seeds=_floor_file, refusals=(Misuse,))
def _evaluation_floor(data: bytes) -> None:
    floor = EvaluationFloor.parse(_text(data))
    assert EvaluationFloor.parse(floor.encode()) == floor


def _pin_file() -> list[bytes]:
    ids = tuple(PlatformID.parse(text) for text in (f"ppid:{'1' * 32}", f"instance:{'2' * 32}"))
    pins = PlatformPins({(bytes(32), Role.WORKLOAD, "app"): Pin(ids=ids, since=NOW)})
    return [PlatformPins().encode().encode(), pins.encode().encode()]


@target(PlatformPins.parse, seeds=_pin_file, refusals=(Misuse,))
def _platform_pins(data: bytes) -> None:
    pins = PlatformPins.parse(_text(data))
    assert PlatformPins.parse(pins.encode()) == pins


@target(PlatformID.parse, seeds=texts(f"ppid:{'1' * 32}", f"chip:{'a' * 128}"), refusals=(ValueError,))
def _platform_id(data: bytes) -> None:
    one = PlatformID.parse(_text(data))
    assert PlatformID.parse(str(one)) == one


@functools.cache
def _stored() -> dict[str, bytes]:
    return Platform.create(now=NOW, seed=bytes(range(32))).to_files()


@target(
    Platform.from_files,
    PlatformModel.from_json,
    SimulatedPKI.from_json,
    seeds=lambda: [_stored()[SECRETS_FILE]],
    refusals=(Misuse,),
)
def _simulator(data: bytes) -> None:
    Platform.from_files({ROOT_FILE: _stored()[ROOT_FILE], SECRETS_FILE: data})


@target(
    parse_upload,
    seeds=lambda: [Platform.create(now=NOW, seed=bytes(range(32))).platform_collaterals(now=NOW)],
    refusals=(Refusal,),
)
def _pccs_upload(data: bytes) -> None:
    try:
        parse_upload(data, api_version=3)
    except Refusal:
        parse_upload(data, api_version=4)


@functools.cache
def _machine_upload() -> bytes:
    return Platform.create(now=NOW, seed=bytes(range(32))).platform_collaterals(now=NOW)


@target(inspect_upload, seeds=lambda: [_machine_upload()])
def _platform_collaterals(data: bytes) -> None:
    inspect_upload(data)


@target(decode_part, seeds=lambda: [encode_part(parse_upload(_machine_upload(), api_version=4))])
def _pccs_part(data: bytes) -> None:
    upload = parse_upload(_machine_upload(), api_version=4)
    decode_part(data, levels={each.fmspc: each.tcb_info for each in upload.platforms})


_BUNDLE_KEY: Final = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def _bundles() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        part, stream = Path(folder) / "part", io.BytesIO()
        part.write_bytes(b"{}")
        write_bundle(stream, [part, part], _BUNDLE_KEY)
        return [stream.getvalue()]


@target(read_bundle, seeds=_bundles, refusals=(MalformedInput, VerificationError))
def _pccs_bundle(data: bytes) -> None:
    for _ in read_bundle(io.BytesIO(data), key=_BUNDLE_KEY.public_key()):
        pass


@target(
    Registration.parse,
    seeds=lambda: [
        json.dumps({"qe_id": "ab", "pce_id": "0000", "platform_manifest": "00", **more}).encode()
        for more in ({}, {"cpu_svn": "0f" * 16, "pce_svn": "0d00", "enc_ppid": "ab" * 384, "platform_manifest": ""})
    ],
    refusals=(Refusal,),
)
def _pccs_registration(data: bytes) -> None:
    assert Registration.parse(data).to_json()


@target(AppraisalPolicy.parse, seeds=lambda: [_appraisal_policy()], refusals=(Refusal,))
def _pccs_policy(data: bytes) -> None:
    assert len(AppraisalPolicy.parse(data).id) == 96


def _appraisal_policy() -> bytes:
    classes = [{"environment": {"class_id": "3123ec35-8d38-4ea5-87a5-d6c48b567570"}}]
    payload = json.dumps({"policy_payload": json.dumps({"policy_array": classes})}).encode()
    token = f"e30.{base64.urlsafe_b64encode(payload).decode()}.c2ln"
    return json.dumps({"is_default": True, "fmspc": "00606a000000", "policy": token}).encode()


@target(
    Levels.parse,
    seeds=lambda: [join_signed_document("tcbInfo", text, bytes(64)) for text in documents("tcb_info")()],
    refusals=(SelectionError,),
)
def _pccs_levels(data: bytes) -> None:
    assert Levels.parse(data).levels


def _files_of_all_kinds() -> list[bytes]:
    return [
        *quotes()[:2],
        *ratls_certificates()[:2],
        *tagged_evidence()[:1],
        _endorsements().encode(),
        *images()[:1],
        *sigstructs()[:1],
        *crls()[:1],
        *documents("tcb_info")(),
        quotes()[0].hex().encode(),
        base64.b64encode(quotes()[0]),
        *files("go-sev-guest/attestation.bin"),
    ]


@target(
    *(inspect, inspect_image, inspect_sigstruct, inspect_snp_report, inspect_crl, inspect_document),
    *(inspect_event_log, inspect_tagged, inspect_quote, inspect_certificate, from_base64, from_hex, pem_blocks),
    *(inspect_messages, inspect_qcnl),
    seeds=_files_of_all_kinds,
)
def _inspect(data: bytes) -> None:
    quote_from_text(data)
    inspect(data)


def archives() -> list[bytes]:
    """Archives of every form that is known, with a name too long for the oldest of them; plain and packed."""
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as writer:
            for name, content in (("a", b"first"), (f"{'folder/' * 14}b", b"x" * 600), ("ä" * 30, b"")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                writer.addfile(member, io.BytesIO(content))
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            writer.addfile(folder)
        made.append(out.getvalue())
    return [*made, gzip.compress(made[0], mtime=0)]


@target(members_of, seeds=archives)
def _archive(data: bytes) -> None:
    is_archive(data[:512])
    for member in members_of(io.BytesIO(data), keep=64):
        assert len(member.content) == min(member.size, 64)
