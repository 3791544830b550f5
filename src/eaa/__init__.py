"""Enclave Attestation Architecture: prove what runs in a TEE before anyone sends it a secret."""

__version__ = "0.1.0"
