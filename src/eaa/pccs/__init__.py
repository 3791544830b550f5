"""eaa-pccs: a cache of Intel's attestation collateral, with Intel's own REST API."""
