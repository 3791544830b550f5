"""Judgement: facts against policy and reference values, every check explained."""
