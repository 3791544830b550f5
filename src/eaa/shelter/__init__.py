"""The on-premises Verifier and Relying Party."""
