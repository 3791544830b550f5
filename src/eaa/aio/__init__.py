"""asyncio around `tls.connection` and `protocol.exchange`: owns sockets, waits for readiness, moves bytes.

Nothing here decides. The judge and the identity are passed in; the gate in `tls.connection` opens only for what the
judge accepted.
"""
