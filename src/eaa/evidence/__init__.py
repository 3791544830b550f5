"""TEE evidence as frozen records: bytes in, fields out, and back to the very same bytes."""
