"""Evidence into X.509 certificates and out of them; TLS with a gate that only accepted evidence opens."""
