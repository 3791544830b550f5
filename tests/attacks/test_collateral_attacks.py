"""A PCCS in the attacker's hands, while Shelter attests a genuine node by it.

Collateral is signed by the vendor, so all that a PCCS can do is withhold: the rest is refused, each by its own reason.
Real processes, and a real HTTP server that answers as the attacker likes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eaa.collateral.bundle import MAX_DOCUMENT_SIZE, Collateral
from eaa.errors import Reason, Unavailable, VerificationError
from eaa.protocol.messages import Open
from eaa.simulator.faults import Fault
from eaa.simulator.platform import Platform
from eaa.sources.pccs import PCCSSource
from support.flow import answer_of, evidence_of
from support.peers import TLSSession, Wire, attest, eventually, verifier_of
from support.scripted_http import Reply, Script, scripted
from support.scripted_pccs import CRL, IDENTITY, ROOT_CRL, TCB, Replies, served
from support.system import Done, Running, Site, run, running


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A genuine node, and its vendor's word on it."""

    site: Site
    relay: str
    platform: Platform

    def collateral(self, *faults: Fault, age: timedelta = timedelta(0)) -> Collateral:
        return self.platform.collateral(now=datetime.now(UTC) - age, faults=frozenset(faults))


@pytest.fixture(scope="module")
def world(site: Site) -> Iterator[World]:
    files = {path.name: path.read_bytes() for path in site.tee.iterdir() if path.suffix not in (".sgxs", ".sigstruct")}
    platform = Platform.from_files(files)
    with site.node() as relay:
        yield World(site=site, relay=relay, platform=platform)


def judged_by(world: World, replies: Replies) -> Done:
    """Attest the node with collateral from a PCCS that answers so."""
    with scripted(replies) as pccs:
        trusted = ("--trust-anchor", world.site.root, "--reference-values", world.site.values)
        command = ("shelter", "remoteattestation", f"--addr={world.relay}", "--json", *trusted, "--pccs", pccs.url)
        return run(*command)


def refused(done: Done, reason: Reason) -> None:
    answer = answer_of(done)
    assert (answer["reason"], done.code in (3, 4)) == (reason, True), answer


def test_the_good_world_is_good(world: World) -> None:
    done = judged_by(world, served(world.collateral()))
    assert answer_of(done)["verdict"] == "accepted"


# --- documents that were changed on their way ----------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    """One bit of one byte."""
    position = at % len(data)
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def renumbered(document: bytes) -> bytes:
    """A newer evaluation number, which would make old collateral look new."""
    changed = re.sub(rb'"tcbEvaluationDataNumber":(?=\d)', b'"tcbEvaluationDataNumber":9', document)
    assert changed != document
    return changed


def resigned(pem: bytes, number: int) -> bytes:
    """The chain with one bit of one certificate's signature flipped."""
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----\n(.*?)-----END CERTIFICATE-----\n", pem, re.DOTALL)
    ders = [base64.b64decode(block) for block in blocks]
    ders[number] = flipped(ders[number], -1)
    lines = [base64.encodebytes(der) for der in ders]
    return b"".join(b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % line for line in lines)


Change = Callable[[Collateral], Collateral]

CHANGES: dict[str, tuple[Change, Reason]] = {
    "tcb-info": (lambda good: replace(good, tcb_info=renumbered(good.tcb_info)), Reason.TCB_INFO_SIGNATURE),
    "tcb-info-signature": (
        lambda good: replace(good, tcb_info_signature=flipped(good.tcb_info_signature, 5)),
        Reason.TCB_INFO_SIGNATURE,
    ),
    "tcb-info-signer": (
        lambda good: replace(good, tcb_info_issuer_chain=resigned(good.tcb_info_issuer_chain, 0)),
        Reason.CERTIFICATE_SIGNATURE,
    ),
    "tcb-info-root": (
        lambda good: replace(good, tcb_info_issuer_chain=resigned(good.tcb_info_issuer_chain, 1)),
        Reason.ROOT_UNTRUSTED,
    ),
    "qe-identity": (lambda good: replace(good, qe_identity=renumbered(good.qe_identity)), Reason.QE_IDENTITY_SIGNATURE),
    "qe-identity-signature": (
        lambda good: replace(good, qe_identity_signature=flipped(good.qe_identity_signature, 40)),
        Reason.QE_IDENTITY_SIGNATURE,
    ),
    "qe-identity-signer": (
        lambda good: replace(good, qe_identity_issuer_chain=resigned(good.qe_identity_issuer_chain, 0)),
        Reason.CERTIFICATE_SIGNATURE,
    ),
    "pck-crl": (lambda good: replace(good, pck_crl=flipped(good.pck_crl, -1)), Reason.CRL_SIGNATURE),
    "pck-crl-issuer": (
        lambda good: replace(good, pck_crl_issuer_chain=resigned(good.pck_crl_issuer_chain, 0)),
        Reason.CERTIFICATE_SIGNATURE,
    ),
    "pck-crl-root": (
        lambda good: replace(good, pck_crl_issuer_chain=resigned(good.pck_crl_issuer_chain, 1)),
        Reason.ROOT_UNTRUSTED,
    ),
    "root-crl": (lambda good: replace(good, root_ca_crl=flipped(good.root_ca_crl, -1)), Reason.CRL_SIGNATURE),
    "crls-exchanged": (
        lambda good: replace(good, root_ca_crl=good.pck_crl, pck_crl=good.root_ca_crl),
        Reason.CRL_ISSUER,
    ),
    "tcb-info-signed-as-qe-identity": (
        lambda good: replace(good, tcb_info_signature=good.qe_identity_signature),
        Reason.TCB_INFO_SIGNATURE,
    ),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
def test_a_document_that_was_changed_is_refused_by_its_own_reason(world: World, change: Change, reason: Reason) -> None:
    refused(judged_by(world, served(change(world.collateral()))), reason)


# --- genuine documents of something else ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.TCB_INFO_FMSPC, Reason.TCB_INFO_MISMATCH),
        (Fault.TCB_INFO_PCE_ID, Reason.TCB_INFO_MISMATCH),
        (Fault.PCK_CRL_OF_OTHER_CA, Reason.CRL_ISSUER),
        (Fault.ROOT_CRL_OF_OTHER_ISSUER, Reason.CRL_ISSUER),
        (Fault.TCB_INFO_SIGNED_BY_LEAF, Reason.CERTIFICATE_CHAIN),
    ],
)
def test_another_platform_s_collateral_is_none_of_this_one_s(world: World, fault: Fault, reason: Reason) -> None:
    """The vendor's signature is good on each of these: they are about something else."""
    done = judged_by(world, served(world.collateral(fault)))
    refused(done, reason)


def test_collateral_of_another_vendor_is_not_trusted(world: World) -> None:
    stranger = Platform.create(now=datetime.now(UTC))
    refused(judged_by(world, served(stranger.collateral(now=datetime.now(UTC)))), Reason.ROOT_UNTRUSTED)


def test_old_collateral_is_not_kept_alive(world: World) -> None:
    """A PCCS that was told of a revocation may go on serving what it had before; that has its end."""
    refused(judged_by(world, served(world.collateral(age=timedelta(days=60)))), Reason.CRL_EXPIRED)


def test_a_revoked_platform_stays_revoked_whatever_else_is_served(world: World) -> None:
    refused(judged_by(world, served(world.collateral(Fault.LEAF_REVOKED))), Reason.CERTIFICATE_REVOKED)


# --- answers that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CRL, TCB, IDENTITY, ROOT_CRL])
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(body=bytes(MAX_DOCUMENT_SIZE + 1)), Reason.PCCS_ERROR),
        (Reply(body=b"<html>welcome</html>"), Reason.PCCS_ERROR),
        (Reply(body=b""), Reason.PCCS_ERROR),
        (Reply(status=500, body=b"x" * 5000), Reason.PCCS_ERROR),
        (Reply(status=404), Reason.COLLATERAL_NOT_FOUND),
    ],
    ids=["huge", "html", "empty", "error-500", "not-found"],
)
def test_an_answer_that_is_no_collateral_is_unavailable(world: World, path: str, reply: Reply, reason: Reason) -> None:
    with scripted({**served(world.collateral()), path: (reply,)}) as pccs:
        assert failure(world, PCCSSource(pccs.url, retries=0)) is reason


def failure(world: World, source: PCCSSource) -> Reason:
    """Attest the genuine node in this process with a client of our own patience."""
    verifier = verifier_of(world.site, source=source)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(attest(world.relay, verifier))
    return caught.value.reason


def test_a_redirection_leads_nowhere(world: World) -> None:
    """Not even to a PCCS that would answer well: an operator has named one, and means that."""
    good = served(world.collateral())
    with scripted(good) as elsewhere:
        away = Reply(status=302, headers=(("Location", f"{elsewhere.url}{TCB}"),))
        refused(judged_by(world, {**good, TCB: (away,)}), Reason.PCCS_ERROR)
        assert elsewhere.requests == []


@pytest.mark.parametrize("path", [CRL, TCB, IDENTITY, ROOT_CRL])
@pytest.mark.parametrize("reply", [Reply(stalls=30, body=b"x"), Reply(trickles=0.05, body=b"x" * 600)])
def test_a_pccs_that_takes_its_time_is_given_up(world: World, path: str, reply: Reply) -> None:
    with scripted({**served(world.collateral()), path: (reply,)}) as pccs:
        assert failure(world, PCCSSource(pccs.url, retries=0, timeout=0.3)) is Reason.PCCS_UNREACHABLE


@pytest.mark.parametrize(
    ("scheme", "beginning"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX-Padding: "),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("https", b"\x16\x03\x03\x40\x00"),
    ],
    ids=["in-a-header", "in-a-body-without-an-end", "in-the-tls-handshake"],
)
def test_a_pccs_that_trickles_anywhere_meets_one_deadline(world: World, scheme: str, beginning: bytes) -> None:
    """Each byte comes in good time, and there is always another one."""
    with trickling(beginning) as address:
        source = PCCSSource(f"{scheme}://{address}", retries=0, timeout=0.3)
        assert failure(world, source) is Reason.PCCS_UNREACHABLE


@contextlib.contextmanager
def trickling(beginning: bytes) -> Iterator[str]:
    """A server that begins to answer, and then sends a byte now and then for as long as it may."""
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as sock:
            sock.recv(65536)
            sock.sendall(beginning)
            while not over.wait(0.05):
                sock.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield "{}:{}".format(*listening.getsockname())
        over.set()
        thread.join()


def test_refused_collateral_is_not_kept(world: World) -> None:
    """The next visit asks again, and is served by a PCCS that has come to its senses."""
    good = served(world.collateral())
    bad = served(CHANGES["tcb-info"][0](world.collateral()))
    with scripted({**good, TCB: (*bad[TCB], *good[TCB])}) as pccs:
        verifier = verifier_of(world.site, source=PCCSSource(pccs.url, retries=0))
        with pytest.raises(VerificationError) as caught:
            asyncio.run(attest(world.relay, verifier))
        assert caught.value.reason is Reason.TCB_INFO_SIGNATURE
        judgement, _ = asyncio.run(attest(world.relay, verifier))
        assert judgement.accepted


# --- a PCCS that never answers -------------------------------------------------------------------------------------

STALLING: Replies = {path: (Reply(stalls=600, body=b"x"),) for path in (CRL, TCB, IDENTITY, ROOT_CRL)}


def trusting(site: Site, pccs: Script) -> tuple[str | Path, ...]:
    return ("--trust-anchor", site.root, "--reference-values", site.values, "--pccs", pccs.url)


def test_a_pccs_that_never_answers_costs_those_who_need_it_only(site: Site) -> None:
    """The relay waits for collateral on behalf of many clients: others are served, and it stops when it is told to."""
    with scripted(STALLING) as pccs, site.workload() as workload, contextlib.ExitStack() as stack:
        hops = ("--listen", "127.0.0.1:0", "--xfer", workload.address(), "--mutual")
        with running("inclavared", *hops, *site.attested("relay"), *trusting(site, pccs)) as relay:
            address = relay.address()
            for _ in range(40):
                wire = Wire.to(address)
                stack.callback(wire.close)
                TLSSession(wire).handshake().say(Open(workload="default"))
            eventually(lambda: bool(pccs.requests), what="a request for collateral")
            # The relay's own evidence needs none, so that a client gets as far as being told that it is too early.
            done = site.shelter(address, "--workload", "other", "--json")
            assert evidence_of(answer_of(done), "relay")["verdict"] == "accepted"
            assert answer_of(done)["reason"] == Reason.WORKLOAD_UNAVAILABLE
            assert relay.stop(signal.SIGTERM) == 143


def test_shelter_can_be_stopped_while_a_pccs_keeps_it_waiting(world: World) -> None:
    with scripted(STALLING) as pccs:
        trusted = trusting(world.site, pccs)
        visit = Running("shelter", "remoteattestation", f"--addr={world.relay}", *trusted)
        eventually(lambda: bool(pccs.requests), what="a request for collateral")
        assert visit.stop(signal.SIGINT) == 130
