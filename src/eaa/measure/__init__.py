"""Launch measurements computed from files: MRENCLAVE of an enclave image, and the SIGSTRUCT that names it."""
