"""Explaining files: one module a family of formats. Everything here reads, and nothing here judges."""
