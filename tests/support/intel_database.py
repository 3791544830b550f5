"""A database as Intel's service keeps it (SQLite), with one simulated platform or very many of one model."""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from eaa.collateral.intel import PCKCertificate
from eaa.pccs.pem import unpacked
from support.pccs import encode, platform, upload_document

STAMP: Final = "2026-11-23 12:00:00.000 +00:00"
_TIMES: Final = ", created_time DATETIME NOT NULL, updated_time DATETIME NOT NULL"
TABLES: Final = {
    "umzug": "name VARCHAR(255) PRIMARY KEY",
    "platforms": "qe_id VARCHAR(255), pce_id VARCHAR(255), platform_manifest BLOB, enc_ppid BLOB, fmspc VARCHAR(255), "
    f"ca VARCHAR(255){_TIMES}, PRIMARY KEY (qe_id, pce_id)",
    "platform_tcbs": "qe_id VARCHAR(255), pce_id VARCHAR(255), cpu_svn VARCHAR(255), pce_svn VARCHAR(255), "
    f"tcbm VARCHAR(255){_TIMES}, PRIMARY KEY (qe_id, pce_id, cpu_svn, pce_svn)",
    "pck_cert": "qe_id VARCHAR(255), pce_id VARCHAR(255), tcbm VARCHAR(255), pck_cert BLOB"
    f"{_TIMES}, PRIMARY KEY (qe_id, pce_id, tcbm)",
    "platforms_registered": "qe_id VARCHAR(255), pce_id VARCHAR(255), cpu_svn VARCHAR(255), pce_svn VARCHAR(255), "
    f"enc_ppid BLOB, platform_manifest BLOB, state INTEGER{_TIMES}, PRIMARY KEY (qe_id, pce_id, cpu_svn, pce_svn)",
    "fmspc_tcbs": "fmspc VARCHAR(255), type INTEGER, version INTEGER, update_type VARCHAR(255), tcbinfo BLOB, "
    f"root_cert_id INTEGER, signing_cert_id INTEGER{_TIMES}, PRIMARY KEY (fmspc, type, version, update_type)",
    "enclave_identities": "id INTEGER, version INTEGER, update_type VARCHAR(255), identity BLOB, root_cert_id INTEGER, "
    f"signing_cert_id INTEGER{_TIMES}, PRIMARY KEY (id, version, update_type)",
    "pck_crl": f"ca VARCHAR(255) PRIMARY KEY, pck_crl BLOB, root_cert_id INTEGER, intmd_cert_id INTEGER{_TIMES}",
    "pck_certchain": f"ca VARCHAR(255) PRIMARY KEY, root_cert_id INTEGER, intmd_cert_id INTEGER{_TIMES}",
    "pcs_certificates": f"id INTEGER PRIMARY KEY, cert BLOB, crl BLOB{_TIMES}",
    "crl_cache": f"cdp_url VARCHAR(255) PRIMARY KEY, crl BLOB{_TIMES}",
    "appraisal_policies": "id VARCHAR(255) PRIMARY KEY, type INTEGER, policy TEXT, is_default INTEGER, "
    f"fmspc VARCHAR(255){_TIMES}",
    "pcs_version": f"id INTEGER PRIMARY KEY, api_version INTEGER, server_addr VARCHAR(255), db_version INTEGER{_TIMES}",
}
_BEGIN: Final = "-----BEGIN%20CERTIFICATE-----"


def write(path: Path, *, count: int = 1, document: dict[str, Any] | None = None) -> sqlite3.Connection:
    """Write it; the first platform is the simulated one, the others differ from it in id and certificate."""
    connection = sqlite3.connect(path)
    for name, columns in TABLES.items():
        connection.execute(f"CREATE TABLE {name} ({columns})")
    document = document or upload_document()
    _documents(connection, document["collaterals"])
    entry = document["platforms"][0]
    for index, pem in enumerate(certificates(count)):
        key = (qe_id(index), entry["pce_id"])
        ppid = hashlib.sha512(key[0].encode()).digest() * 6
        if index == 0:
            key, ppid = (entry["qe_id"].upper(), entry["pce_id"]), bytes.fromhex(entry["enc_ppid"])
        tcbm = (entry["cpu_svn"] + entry["pce_svn"]).upper()
        put(connection, "platforms", *key, None, ppid, platform().model.fmspc.hex().upper(), "PLATFORM")
        put(connection, "platform_tcbs", *key, entry["cpu_svn"].upper(), entry["pce_svn"].upper(), tcbm)
        put(connection, "pck_cert", *key, tcbm, pem.encode())
    connection.commit()
    return connection


def put(connection: sqlite3.Connection, table: str, *values: object) -> None:
    """One row, with its two times."""
    row = (*values, STAMP, STAMP)
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def qe_id(index: int) -> str:
    """Of one of many platforms."""
    return hashlib.sha256(f"platform {index}".encode()).hexdigest()[:32].upper()


def _documents(connection: sqlite3.Connection, collaterals: dict[str, Any]) -> None:
    chains = collaterals["certificates"]
    cas = chains["SGX-PCK-Certificate-Issuer-Chain"]
    root_crl = bytes.fromhex(collaterals["rootcacrl"])
    parts = {2: cas["PROCESSOR"], 3: chains["TCB-Info-Issuer-Chain"], 4: cas["PLATFORM"]}
    for number, chain in parts.items():
        at = chain.rindex(_BEGIN)
        put(connection, "pcs_certificates", number, chain[:at].encode(), None)
    put(connection, "pcs_certificates", 1, cas["PLATFORM"][cas["PLATFORM"].rindex(_BEGIN) :].encode(), root_crl)
    for ca, number in (("PROCESSOR", 2), ("PLATFORM", 4)):
        put(connection, "pck_crl", ca, bytes.fromhex(collaterals["pckcacrl"][f"{ca.lower()}Crl"]), 1, number)
        put(connection, "pck_certchain", ca, 1, number)
    put(connection, "crl_cache", collaterals["rootcacrl_cdp"], root_crl)
    for info in collaterals["tcbinfos"]:
        for kind, member in ((0, "sgx_tcbinfo"), (1, "tdx_tcbinfo")):
            if member in info:
                put(connection, "fmspc_tcbs", info["fmspc"].upper(), kind, 4, "STANDARD", encode(info[member]), 1, 3)
    for number, member in ((1, "qeidentity"), (2, "qveidentity"), (3, "tdqeidentity")):
        put(connection, "enclave_identities", number, 4, "STANDARD", collaterals[member].encode(), 1, 3)
    put(connection, "pcs_version", 1, 4, "api.trustedservices.intel.com", 5)


@functools.cache
def _template() -> tuple[bytes, bytes, bytes]:
    """The part of the simulated platform's certificate that is signed, its PPID and its serial number."""
    certificate = PCKCertificate.parse(platform().pck_certificate.public_bytes(Encoding.DER))
    serial = platform().pck_certificate.serial_number
    return (
        platform().pck_certificate.tbs_certificate_bytes,
        certificate.ppid,
        serial.to_bytes((serial.bit_length() + 8) // 8, "big"),
    )


def certificates(count: int) -> Iterator[str]:
    """PCK certificates of so many platforms, the simulated one's first: alike but for serial number and PPID."""
    yield platform().pck_pem.decode()
    tbs, ppid, serial = _template()
    ca = platform().pki.cas["platform"].key
    for index in range(1, count):
        digest = hashlib.sha256(f"certificate {index}".encode()).digest()
        own_serial = bytes([serial[0] or 0]) + b"\x41" + digest[: len(serial) - 2]
        own = tbs.replace(serial, own_serial, 1).replace(ppid, digest[-16:], 1)
        signature = ca.sign(own, ec.ECDSA(hashes.SHA256()))
        algorithm = bytes.fromhex("300a06082a8648ce3d040302")
        bits = b"\x03" + _length(len(signature) + 1) + b"\0" + signature
        body = own + algorithm + bits
        yield unpacked(b"\x30" + _length(len(body)) + body)


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(raw)]) + raw


def chain_of(document: dict[str, Any]) -> bytes:
    """The PEM of the PLATFORM CA's chain."""
    return unquote_to_bytes(document["collaterals"]["certificates"]["SGX-PCK-Certificate-Issuer-Chain"]["PLATFORM"])
