"""An SGX machine and its vendor in software: real bytes, real signatures, another root, and faults on request."""
