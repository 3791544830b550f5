"""Records of TLS 1.3 made by hand, as no library of ours would send them: TLS_AES_256_GCM_SHA384, RFC 8446."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

_HANDSHAKE, _APPLICATION = 22, 23
_KEY_UPDATE = 24


@dataclass(slots=True)
class Sender:
    """What one side would send next."""

    secret: bytes
    """Its traffic secret."""
    number: int = 0
    """Of the record, under this secret."""

    def application(self, data: bytes) -> bytes:
        """Return a record of application data."""
        return self._record(data, _APPLICATION)

    def key_updates(self, count: int) -> bytes:
        """Return so many records, each of which says that the next one has another key (RFC 8446, 4.6.3)."""
        records = []
        for _ in range(count):
            records.append(self._record(bytes([_KEY_UPDATE, 0, 0, 1, 0]), _HANDSHAKE))
            self.secret, self.number = self._expand(b"traffic upd", 48), 0
        return b"".join(records)

    def _record(self, content: bytes, kind: int) -> bytes:
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + struct.pack(">H", len(inner) + 16)
        nonce = int.from_bytes(self._expand(b"iv", 12), "big") ^ self.number
        self.number += 1
        return head + AESGCM(self._expand(b"key", 32)).encrypt(nonce.to_bytes(12, "big"), inner, head)

    def _expand(self, label: bytes, size: int) -> bytes:
        full = b"tls13 " + label
        info = struct.pack(">HB", size, len(full)) + full + b"\0" + b"\1"
        return hmac.new(self.secret, info, hashlib.sha384).digest()[:size]


def note_secrets(context: SSL.Context) -> dict[str, bytes]:
    """Return the secrets of a context's connections, once there are any, by the names of SSLKEYLOGFILE."""
    secrets: dict[str, bytes] = {}

    def note(_connection: SSL.Connection, line: bytes) -> None:
        name, _, secret = line.decode().split()
        secrets[name] = bytes.fromhex(secret)

    context.set_keylog_callback(note)
    return secrets
