"""Attester and relay on every node."""
