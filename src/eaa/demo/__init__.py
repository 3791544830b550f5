"""The whole system on one machine, with a software TEE."""
