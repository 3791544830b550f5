"""Every field class, and how a mutant of it is made.

A class is one named field (`quote.td.rtmr0`, `tcb_info_issuer_chain.signer.not_after`) or one kind of change
(`length.auth`, `splice.pck`). A maker takes a source of randomness and returns one mutant.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from eaa.collateral.bundle import Collateral
from eaa.evidence.quote import TEEType
from mutants.changes import CHANGES, Change, prepare
from mutants.layout import (
    PCK_CHAIN,
    SIGNER_CHAIN,
    Span,
    ders_of,
    lengthen,
    map_certificate,
    map_crl,
    pem_of,
    resize,
)
from mutants.spoil import RESPELLINGS, Leaf, flip, leaves, respell
from mutants.subjects import (
    Authority,
    Mutant,
    Subject,
    exhibit_of,
    exhibit_of_world,
    forged_subjects,
    pick,
    real_subjects,
    subjects,
    to_file,
)
from support.vectors import ROOT as VECTORS

Maker = Callable[[Random], Mutant]

_CHAINS: Final = {
    "pck_crl_issuer_chain": ("ca", "root"),
    "tcb_info_issuer_chain": SIGNER_CHAIN,
    "qe_identity_issuer_chain": SIGNER_CHAIN,
}
_CRLS: Final = ("root_ca_crl", "pck_crl")
_DOCUMENTS: Final = ("tcb_info", "qe_identity")
_SIGNATURES: Final = ("tcb_info_signature", "qe_identity_signature")
_LENGTHS: Final = ("auth.length", "outer.size", "qe_auth.size", "certification.size", "descriptor.size")


@functools.cache
def makers() -> dict[str, Maker]:
    """Return a maker for every field class, in an order that does not change."""
    found: dict[str, Maker] = {}
    for rows in (
        _quote_fields(),
        _quote_shapes(),
        _certificates(),
        _crls(),
        _documents(),
        _collateral_file(),
        _splices(),
        _times(),
        _signed_changes(),
    ):
        found.update(rows)
    return found


def _mutant(
    field_class: str,
    subject: Subject,
    what: str,
    *,
    authority: Authority = Authority.NOBODY,
    quote: bytes | None = None,
    collateral: Collateral | bytes | None = None,
    now: datetime | None = None,
) -> Mutant:
    exhibit = exhibit_of(subject, quote=quote, collateral=collateral, now=now)
    return Mutant(field_class=field_class, subject=subject, authority=authority, what=what, exhibit=exhibit)


# --- the quote


def _quote_fields() -> Iterator[tuple[str, Maker]]:
    names = {name: None for subject in subjects() for name in subject.map.names}
    for name in names:
        yield f"quote.{name}", functools.partial(_quote_field, name)


def _quote_field(name: str, rng: Random) -> Mutant:
    subject = pick(rng, lambda subject: name in subject.map.names)
    quote, what = flip(subject.quote, subject.map[name], rng)
    return _mutant(f"quote.{name}", subject, what, quote=quote)


def _quote_shapes() -> Iterator[tuple[str, Maker]]:
    for name in _LENGTHS:
        yield f"length.{name}", functools.partial(_length, name)
    shapes: dict[str, Callable[[Subject, Random], tuple[bytes, str]]] = {
        "truncated.anywhere": _truncated,
        "truncated.at_a_field": _truncated_at_field,
        "appended.zeros": _appended_zeros,
        "appended.bytes": _appended_bytes,
        "slack.inside": _slack,
        "inserted.byte": _inserted,
        "removed.byte": _removed,
        "pem.terminator": _terminator,
        "pem.spelling": _pem_spelling,
        "signature.malleable": _malleable,
    }
    for name, shape in shapes.items():
        yield f"quote.{name}", functools.partial(_quote_shape, f"quote.{name}", shape)


def _quote_shape(field_class: str, shape: Callable[[Subject, Random], tuple[bytes, str]], rng: Random) -> Mutant:
    subject = pick(rng)
    quote, what = shape(subject, rng)
    return _mutant(field_class, subject, what, quote=quote)


def _length(name: str, rng: Random) -> Mutant:
    subject = pick(rng, lambda subject: name in subject.map.names)
    by = rng.choice([1, -1, 2, 255, 1 << 15, (1 << 31) - 5000, -(1 << 31), rng.randrange(-300, 300) or 1])
    names = (name,) if rng.random() < 0.7 else tuple(item for item in _LENGTHS[:2] if item in subject.map.names)
    return _mutant(f"length.{name}", subject, f"{names} changed by {by}", quote=lengthen(subject.quote, *names, by=by))


def _truncated(subject: Subject, rng: Random) -> tuple[bytes, str]:
    end = subject.map["padding"].start
    at = rng.randrange(end)
    return subject.quote[:at], f"cut off at {at} of {end}"


def _truncated_at_field(subject: Subject, rng: Random) -> tuple[bytes, str]:
    span = rng.choice([span for span in subject.map.spans if span.start < subject.map["padding"].start])
    return subject.quote[: span.start], f"cut off before {span.name}"


def _appended_zeros(subject: Subject, rng: Random) -> tuple[bytes, str]:
    count = rng.choice([1, 2, 64, 70, 4096, 120_000, 200_000])
    return subject.quote + bytes(count), f"{count} zero bytes appended"


def _appended_bytes(subject: Subject, rng: Random) -> tuple[bytes, str]:
    more = bytes(rng.randrange(8)) + rng.randbytes(rng.randrange(1, 80)) + b"\x01"
    return subject.quote[: subject.map["padding"].start] + more, f"{len(more)} bytes appended"


def _slack(subject: Subject, rng: Random) -> tuple[bytes, str]:
    end = subject.map["padding"].start
    count = rng.choice([1, 2, 16])
    names = ["auth.length"]
    if "outer.size" in subject.map.names and rng.random() < 0.5:
        names.append("outer.size")
    quote = subject.quote[:end] + rng.choice([b"\0", b"\x01"]) * count + subject.quote[end:]
    return lengthen(quote, *names, by=count), f"{count} bytes of slack inside {names[-1]}"


def _inserted(subject: Subject, rng: Random) -> tuple[bytes, str]:
    at = rng.randrange(subject.map["padding"].start)
    return subject.quote[:at] + rng.randbytes(1) + subject.quote[at:], f"a byte inserted at {at}"


def _removed(subject: Subject, rng: Random) -> tuple[bytes, str]:
    at = rng.randrange(subject.map["padding"].start)
    return subject.quote[:at] + subject.quote[at + 1 :], f"the byte at {at} removed"


def _certification_data(subject: Subject) -> bytes:
    span = subject.map["certification.data"]
    return subject.quote[span.start : span.end]


def _terminator(subject: Subject, rng: Random) -> tuple[bytes, str]:
    data = _certification_data(subject).rstrip(b"\0") + b"\0" * (count := rng.choice([0, 1, 2, 100]))
    return resize(subject.quote, certification_data=data), f"{count} zero bytes end the chain"


def _pem_spelling(subject: Subject, rng: Random) -> tuple[bytes, str]:
    data = _certification_data(subject)
    what, new = rng.choice(_respelled_pem(data, rng))
    return resize(subject.quote, certification_data=new), what


def _respelled_pem(pem: bytes, rng: Random) -> list[tuple[str, bytes]]:
    lines = pem.split(b"\n")
    at = rng.randrange(1, len(lines))
    return [
        ("a line of the PEM broken in two", b"\n".join([*lines[:at], lines[at][:7], lines[at][7:], *lines[at + 1 :]])),
        ("lines end in CR LF", pem.replace(b"\n", b"\r\n")),
        ("an empty line inside the PEM", b"\n".join([*lines[:at], b"", *lines[at:]])),
        ("a space at the end of a line", b"\n".join([*lines[:at], lines[at] + b" ", *lines[at + 1 :]])),
        ("text in front of the PEM", b"Subject: somebody\n" + pem),
        ("text between the certificates", pem.replace(b"-----\n-----", b"-----\nhello\n-----", 1)),
        ("another label", pem.replace(b" CERTIFICATE", b" X509 CERTIFICATE")),
        ("the label in lower case", pem.replace(b"BEGIN CERTIFICATE", b"begin certificate", 1)),
        ("a base64 character that is none", pem.replace(b"M", b"*", 1)),
        ("one certificate without an end", pem.replace(b"-----END CERTIFICATE-----", b"", 1)),
    ]


_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _malleable(subject: Subject, rng: Random) -> tuple[bytes, str]:
    """Replace s by n - s, which every ECDSA verifier takes: a signature is no name for a quote."""
    name = rng.choice(["auth.signature", "qe_report_signature"])
    span = subject.map[name]
    return (
        subject.quote[: span.start]
        + _other_signature(subject.quote[span.start : span.end], rng)
        + subject.quote[span.end :]
    ), f"{name}: another r or s"


def _other_signature(signature: bytes, rng: Random) -> bytes:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    pairs = [(r, _ORDER - s), (r, _ORDER - s), (_ORDER - r, s), (0, s), (r, 0), (r, _ORDER), (s, r), (_ORDER, s)]
    if r + _ORDER < 1 << 256:
        pairs.append((r + _ORDER, s))
    return b"".join(number.to_bytes(32, "big") for number in rng.choice(pairs))


# --- certificates and CRLs


def _certificates() -> Iterator[tuple[str, Maker]]:
    for chain, roles in {"quote_chain": PCK_CHAIN, **_CHAINS}.items():
        for index, role in enumerate(roles):
            names = {
                span.name: None
                for subject in subjects()
                for span in map_certificate(_chain_of(subject, chain)[index])
                if span.end > span.start
            }
            for name in names:
                field_class = f"{chain}.{role}.{name}"
                yield field_class, functools.partial(_certificate_field, field_class, chain, index, name)
    for chain in _CHAINS:
        yield f"{chain}.pem", functools.partial(_chain_spelling, chain)


def _chain_of(subject: Subject, chain: str) -> list[bytes]:
    return subject.pck_chain if chain == "quote_chain" else ders_of(getattr(subject.collateral, chain))


def _with_chain(subject: Subject, chain: str, pem: bytes) -> dict[str, Any]:
    """Return the part of an exhibit that holds this chain, with another one in its place."""
    if chain == "quote_chain":
        return {"quote": resize(subject.quote, certification_data=pem + b"\0")}
    return {"collateral": dataclasses.replace(subject.collateral, **{chain: pem})}


def _certificate_field(field_class: str, chain: str, index: int, name: str, rng: Random) -> Mutant:
    subject, span = _with_span(rng, name, lambda subject: map_certificate(_chain_of(subject, chain)[index]))
    ders = list(_chain_of(subject, chain))
    ders[index], what = flip(ders[index], span, rng)
    return _mutant(field_class, subject, what, **_with_chain(subject, chain, pem_of(*ders)))


def _with_span(rng: Random, name: str, spans: Callable[[Subject], tuple[Span, ...]]) -> tuple[Subject, Span]:
    """Return a subject with such a field, and one of the fields of that name."""
    subject = pick(rng, lambda subject: any(span.name == name for span in spans(subject)))
    return subject, rng.choice([span for span in spans(subject) if span.name == name and span.end > span.start])


def _chain_spelling(chain: str, rng: Random) -> Mutant:
    subject = pick(rng)
    what, pem = rng.choice(_respelled_pem(getattr(subject.collateral, chain), rng))
    return _mutant(f"{chain}.pem", subject, what, **_with_chain(subject, chain, pem))


def _crls() -> Iterator[tuple[str, Maker]]:
    for crl in _CRLS:
        names = {span.name: None for subject in subjects() for span in map_crl(getattr(subject.collateral, crl))}
        for name in names:
            yield f"{crl}.{name}", functools.partial(_crl_field, crl, name)
        yield f"{crl}.missing", functools.partial(_crl_missing, crl)


def _crl_field(crl: str, name: str, rng: Random) -> Mutant:
    subject, span = _with_span(rng, name, lambda subject: map_crl(getattr(subject.collateral, crl)))
    der, what = flip(getattr(subject.collateral, crl), span, rng)
    return _mutant(f"{crl}.{name}", subject, what, collateral=dataclasses.replace(subject.collateral, **{crl: der}))


def _crl_missing(crl: str, rng: Random) -> Mutant:
    subject = pick(rng)
    der = getattr(subject.collateral, crl)
    at = rng.choice([0, 0, len(der) - 1, rng.randrange(len(der))])
    new = der[:at] if rng.random() < 0.8 else der + b"\0"
    collateral = dataclasses.replace(subject.collateral, **{crl: new})
    return _mutant(f"{crl}.missing", subject, f"{len(new)} bytes of {len(der)}", collateral=collateral)


# --- documents that somebody without a key changes


def _documents() -> Iterator[tuple[str, Maker]]:
    for name in _DOCUMENTS:
        paths = {leaf.path: None for subject in subjects() for leaf in _leaves(subject, name)[0]}
        for path in paths:
            field_class = f"{name}.unsigned.{path}"
            yield field_class, functools.partial(_leaf_changed, field_class, name, path)
        yield f"{name}.unsigned.member_name", functools.partial(_name_changed, name)
        for how in RESPELLINGS:
            yield f"{name}.unsigned.{how}", functools.partial(_respelled_unsigned, name, how)
        yield f"{name}.unsigned.reordered", functools.partial(_reordered_unsigned, name)
    for name in _SIGNATURES:
        for half in ("r", "s"):
            yield f"{name}.{half}", functools.partial(_signature_changed, name, half)
        yield f"{name}.length", functools.partial(_signature_length, name)
        yield f"{name}.malleable", functools.partial(_signature_malleable, name)


@functools.lru_cache(maxsize=128)
def _leaves_of(text: bytes) -> tuple[list[Leaf], list[Leaf]]:
    return leaves(text.decode())


def _leaves(subject: Subject, name: str) -> tuple[list[Leaf], list[Leaf]]:
    return _leaves_of(getattr(subject.collateral, name))


def _with_document(subject: Subject, name: str, text: bytes) -> Collateral:
    return dataclasses.replace(subject.collateral, **{name: text})


def _leaf_changed(field_class: str, name: str, path: str, rng: Random) -> Mutant:
    subject = pick(rng, lambda subject: any(leaf.path == path for leaf in _leaves(subject, name)[0]))
    leaf = rng.choice([leaf for leaf in _leaves(subject, name)[0] if leaf.path == path])
    text, what = respell(getattr(subject.collateral, name).decode(), leaf.span, rng)
    return _mutant(field_class, subject, what, collateral=_with_document(subject, name, text.encode()))


def _name_changed(name: str, rng: Random) -> Mutant:
    subject = pick(rng)
    leaf = rng.choice(_leaves(subject, name)[1])
    text, what = respell(getattr(subject.collateral, name).decode(), leaf.span, rng)
    collateral = _with_document(subject, name, text.encode())
    return _mutant(f"{name}.unsigned.member_name", subject, f"{leaf.path}: {what}", collateral=collateral)


def _respelled_unsigned(name: str, how: str, rng: Random) -> Mutant:
    subject = pick(rng)
    text = RESPELLINGS[how](getattr(subject.collateral, name), rng)
    return _mutant(f"{name}.unsigned.{how}", subject, how, collateral=_with_document(subject, name, text))


def _reordered_unsigned(name: str, rng: Random) -> Mutant:
    subject = pick(rng)
    document = json.loads(getattr(subject.collateral, name))
    names = list(document)
    at = rng.randrange(1, len(names))
    moved = {key: document[key] for key in (*names[at:], *names[:at])}
    text = json.dumps(moved, separators=(",", ":")).encode()
    what = f"the members begin with {names[at]}"
    return _mutant(f"{name}.unsigned.reordered", subject, what, collateral=_with_document(subject, name, text))


def _signature_changed(name: str, half: str, rng: Random) -> Mutant:
    subject = pick(rng)
    span = Span(name=half, start=0, end=32) if half == "r" else Span(name=half, start=32, end=64)
    signature, what = flip(getattr(subject.collateral, name), span, rng)
    return _mutant(f"{name}.{half}", subject, what, collateral=_with_document(subject, name, signature))


def _signature_length(name: str, rng: Random) -> Mutant:
    subject = pick(rng)
    signature = getattr(subject.collateral, name)
    new = rng.choice([b"", signature[:-1], signature + b"\0", b"\0" + signature, signature[:32], signature * 2])
    return _mutant(f"{name}.length", subject, f"{len(new)} bytes", collateral=_with_document(subject, name, new))


def _signature_malleable(name: str, rng: Random) -> Mutant:
    subject = pick(rng)
    signature = _other_signature(getattr(subject.collateral, name), rng)
    return _mutant(f"{name}.malleable", subject, "another r or s", collateral=_with_document(subject, name, signature))


# --- the collateral file


def _collateral_file() -> Iterator[tuple[str, Maker]]:
    for how, change in _FILE_CHANGES.items():
        field_class = f"collateral_file.{how}"
        yield field_class, functools.partial(_file_changed, field_class, change)


def _file_changed(field_class: str, change: Callable[[dict[str, str], Random], bytes], rng: Random) -> Mutant:
    subject = pick(rng)
    document: dict[str, str] = json.loads(to_file(subject.collateral))
    return _mutant(field_class, subject, field_class, collateral=change(document, rng))


def _file_reordered(document: dict[str, str], rng: Random) -> bytes:
    names = list(document)
    rng.shuffle(names)
    return json.dumps({name: document[name] for name in names}).encode()


def _file_named_twice(document: dict[str, str], rng: Random) -> bytes:
    name = rng.choice(list(document))
    other = rng.choice([document[name], "00", ""])
    text = json.dumps(document)
    again = f"{json.dumps(name)}: {json.dumps(other)}"
    return (f"{{{again}, {text[1:]}" if rng.random() < 0.5 else f"{text[:-1]}, {again}}}").encode()


def _file_member_missing(document: dict[str, str], rng: Random) -> bytes:
    del document[rng.choice(list(document))]
    return json.dumps(document).encode()


def _file_member_odd(document: dict[str, str], rng: Random) -> bytes:
    odd: list[Any] = [None, 1, [], {}, "", "zz", "\ud800", "\u0000", True]
    return json.dumps({**document, rng.choice(list(document)): rng.choice(odd)}).encode()


def _file_member_more(document: dict[str, str], rng: Random) -> bytes:
    return json.dumps({**document, rng.choice(["later", "version", ""]): rng.choice([None, 1, "x"])}).encode()


def _file_spaced(document: dict[str, str], rng: Random) -> bytes:
    return json.dumps(document, indent=rng.choice([None, 0, 1, 8]), separators=rng.choice([(",", ":"), None])).encode()


def _file_hex(document: dict[str, str], rng: Random) -> bytes:
    name = rng.choice([*_CRLS, *_SIGNATURES])
    old = document[name]
    new = rng.choice([old.upper(), f" {old}", f"{old[:2]} {old[2:]}", f"0x{old}", old[:-1], f"{old}\n", f"{old}0"])
    return json.dumps({**document, name: new}).encode()


def _file_surrounded(document: dict[str, str], rng: Random) -> bytes:
    text = json.dumps(document).encode()
    return rng.choice([b" " + text, text + b"\n", b"\xef\xbb\xbf" + text, text + b"x", b"[" + text + b"]", text[:-1]])


def _file_chain(document: dict[str, str], rng: Random) -> bytes:
    """Add a PCK chain, which speaks for no quote that carries its own."""
    name = rng.choice(list(_CHAINS))
    return json.dumps({**document, "pck_certificate_chain": rng.choice([document[name], "", "x", "\ud800"])}).encode()


_FILE_CHANGES: Final[dict[str, Callable[[dict[str, str], Random], bytes]]] = {
    "reordered": _file_reordered,
    "named_twice": _file_named_twice,
    "member_missing": _file_member_missing,
    "member_odd": _file_member_odd,
    "member_more": _file_member_more,
    "spaced": _file_spaced,
    "hex": _file_hex,
    "surrounded": _file_surrounded,
    "pck_chain": _file_chain,
}


# --- parts of other genuine things


def _splices() -> Iterator[tuple[str, Maker]]:
    for index, role in enumerate(PCK_CHAIN):
        yield f"splice.quote_chain.{role}", functools.partial(_spliced_pck_chain, role, index)
    for part in ("auth.signature", "auth.attestation_key", "qe_report", "qe_report_signature", "qe_auth.data", "body"):
        yield f"splice.quote.{part}", functools.partial(_spliced_quote, part)
    for member in (*_CHAINS, *_CRLS, *_DOCUMENTS, *_SIGNATURES):
        yield f"splice.{member}", functools.partial(_spliced_member, member)
    for name in _DOCUMENTS:
        yield f"splice.{name}.with_signature", functools.partial(_spliced_document, name)
    yield "splice.crls_swapped", _swapped_crls
    yield "splice.documents_swapped", _swapped_documents
    yield "splice.chains_permuted", _permuted_chain
    yield "splice.chains_crossed", _crossed_chains
    yield "splice.whole_collateral", _other_collateral
    if real_subjects():
        yield "splice.certificate_of_same_serial", _same_serial
        yield "splice.later_collateral", _later_collateral


def _two(
    rng: Random, wanted: Callable[[Subject, Subject], bool] = lambda _one, _other: True
) -> tuple[Subject, Subject]:
    while True:
        one, other = rng.sample(subjects(), 2)
        if wanted(one, other):
            return one, other


def _spliced_pck_chain(role: str, index: int, rng: Random) -> Mutant:
    one, other = _two(rng, lambda one, other: one.pck_chain[index] != other.pck_chain[index])
    ders = list(one.pck_chain)
    ders[index] = other.pck_chain[index]
    what = f"the {role} of {other.name}"
    return _mutant(f"splice.quote_chain.{role}", one, what, **_with_chain(one, "quote_chain", pem_of(*ders)))


def _spliced_quote(part: str, rng: Random) -> Mutant:
    one, other = _two(rng, lambda one, other: len(_part(one, part)) == len(_part(other, part)))
    start, end = _bounds(one, part)
    quote = one.quote[:start] + _part(other, part) + one.quote[end:]
    return _mutant(f"splice.quote.{part}", one, f"that of {other.name}", quote=quote, authority=Authority.GENUINE)


def _bounds(subject: Subject, part: str) -> tuple[int, int]:
    if part in ("qe_report", "body"):
        prefixes = ("qe_report.",) if part == "qe_report" else ("sgx.", "td.")
        spans = [span for span in subject.map.spans if span.name.startswith(prefixes)]
        return spans[0].start, spans[-1].end
    span = subject.map[part]
    return span.start, span.end


def _part(subject: Subject, part: str) -> bytes:
    start, end = _bounds(subject, part)
    return subject.quote[start:end]


def _spliced_member(member: str, rng: Random) -> Mutant:
    one, other = _two(rng, lambda one, other: getattr(one.collateral, member) != getattr(other.collateral, member))
    collateral = dataclasses.replace(one.collateral, **{member: getattr(other.collateral, member)})
    what = f"that of {other.name}"
    return _mutant(f"splice.{member}", one, what, collateral=collateral, authority=Authority.GENUINE)


def _spliced_document(name: str, rng: Random) -> Mutant:
    one, other = _two(rng, lambda one, other: one.root == other.root)
    names = (name, f"{name}_signature", f"{name}_issuer_chain")
    collateral = dataclasses.replace(one.collateral, **{item: getattr(other.collateral, item) for item in names})
    now = rng.choice([one.now, other.now])
    what = f"that of {other.name}, at {now}"
    return _mutant(
        f"splice.{name}.with_signature", one, what, collateral=collateral, now=now, authority=Authority.GENUINE
    )


def _swapped_crls(rng: Random) -> Mutant:
    subject = pick(rng)
    root_crl, pck_crl = subject.collateral.root_ca_crl, subject.collateral.pck_crl
    new = rng.choice([(pck_crl, root_crl), (root_crl, root_crl), (pck_crl, pck_crl)])
    collateral = dataclasses.replace(subject.collateral, root_ca_crl=new[0], pck_crl=new[1])
    return _mutant("splice.crls_swapped", subject, "one list in the place of the other", collateral=collateral)


def _swapped_documents(rng: Random) -> Mutant:
    subject = pick(rng)
    old = subject.collateral
    collateral = dataclasses.replace(
        old,
        tcb_info=old.qe_identity,
        tcb_info_signature=old.qe_identity_signature,
        qe_identity=old.tcb_info,
        qe_identity_signature=old.tcb_info_signature,
    )
    return _mutant("splice.documents_swapped", subject, "each document in the other's place", collateral=collateral)


def _permuted_chain(rng: Random) -> Mutant:
    subject = pick(rng)
    chain = rng.choice(["quote_chain", *_CHAINS])
    ders = list(_chain_of(subject, chain))
    action = rng.choice(["reversed", "first dropped", "last dropped", "first twice", "last twice", "empty"])
    new = {
        "reversed": ders[::-1],
        "first dropped": ders[1:],
        "last dropped": ders[:-1],
        "first twice": [ders[0], *ders],
        "last twice": [*ders, ders[-1]],
        "empty": [],
    }[action]
    what = f"{chain}: {action}"
    return _mutant("splice.chains_permuted", subject, what, **_with_chain(subject, chain, pem_of(*new)))


def _crossed_chains(rng: Random) -> Mutant:
    subject = pick(rng)
    chain, other = rng.sample(["quote_chain", *_CHAINS], 2)
    what = f"{other} in the place of {chain}"
    pem = pem_of(*_chain_of(subject, other))
    return _mutant("splice.chains_crossed", subject, what, **_with_chain(subject, chain, pem))


def _other_collateral(rng: Random) -> Mutant:
    one, other = _two(rng)
    now = rng.choice([one.now, other.now])
    what = f"the collateral of {other.name}, at {now}"
    return _mutant(
        "splice.whole_collateral", one, what, collateral=other.collateral, now=now, authority=Authority.GENUINE
    )


def _same_serial(rng: Random) -> Mutant:
    """Intel has issued three TCB signing certificates with one serial and one key, each for another time."""
    subject = rng.choice(real_subjects())
    path = rng.choice(sorted((VECTORS / "certs").glob("*.pem")))
    (signer,) = ders_of(path.read_bytes())
    chain = rng.choice(["tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"])
    ders = [signer, *ders_of(getattr(subject.collateral, chain))[1:]]
    collateral = dataclasses.replace(subject.collateral, **{chain: pem_of(*ders)})
    what = f"{chain} begins with {path.name}"
    return _mutant(
        "splice.certificate_of_same_serial", subject, what, collateral=collateral, authority=Authority.GENUINE
    )


def _later_collateral(rng: Random) -> Mutant:
    """Another genuine collateral for the same platform model."""
    one, other = _two(rng, lambda one, other: one.is_real and other.is_real and one.facts.fmspc == other.facts.fmspc)
    what = f"the collateral of {other.name}, at its time"
    return _mutant(
        "splice.later_collateral",
        one,
        what,
        collateral=other.collateral,
        now=other.now,
        authority=Authority.GENUINE,
    )


# --- time


def _times() -> Iterator[tuple[str, Maker]]:
    names = {name: None for subject in subjects() for name, _ in subject.facts.expirations}
    for name in names:
        yield f"time.{name.replace(' ', '_')}.begins", functools.partial(_at_an_edge, name, begins=True)
        yield f"time.{name.replace(' ', '_')}.ends", functools.partial(_at_an_edge, name, begins=False)
    yield "time.far", _far_time


def _at_an_edge(name: str, rng: Random, *, begins: bool) -> Mutant:
    subject = pick(rng, lambda subject: name in dict(subject.facts.expirations))
    edges = [moment for what, moment in (subject.facts.issued if begins else subject.facts.expirations) if what == name]
    now = rng.choice(edges) + timedelta(seconds=rng.choice([-1, 0, 1]))
    field_class = f"time.{name.replace(' ', '_')}.{'begins' if begins else 'ends'}"
    return _mutant(field_class, subject, f"at {now}", now=now, authority=Authority.GENUINE)


def _far_time(rng: Random) -> Mutant:
    subject = pick(rng)
    now = rng.choice(
        [
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
            datetime(2200, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
            subject.now + timedelta(days=rng.randrange(-4000, 4000)),
            subject.now + timedelta(hours=rng.randrange(-800, 800)),
        ]
    )
    return _mutant("time.far", subject, f"at {now}", now=now, authority=Authority.GENUINE)


# --- changes that are signed


def _signed_changes() -> Iterator[tuple[str, Maker]]:
    for name, change in CHANGES.items():
        yield f"signed.{name}", functools.partial(_signed_change, f"signed.{name}", change)


def _signed_change(field_class: str, change: Change, rng: Random) -> Mutant:
    tee = change.tee or rng.choice(list(TEEType))
    subject = rng.choice([item for item in forged_subjects() if item.tee is tee])
    assert subject.forge is not None
    world = prepare(subject.forge())
    what = change.edit(world, rng)
    return Mutant(
        field_class=field_class,
        subject=subject,
        authority=change.authority,
        what=what,
        exhibit=exhibit_of_world(world),
    )
