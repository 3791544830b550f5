"""Vendor documents as frozen records: certificates, CRLs, TCB Info, QE identity. Parsed, and still untrusted."""
