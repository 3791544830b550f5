"""Three hops, real processes: Shelter and Inclavared, Inclavared and workload, Shelter and workload inside the pipe."""

from __future__ import annotations

from support.system import Site


def test_reference_command_line_attests_relay_and_workload(site: Site) -> None:
    """The seed's flags, all of them, mean what they meant."""
    reference = ("--verifier", "sgx_ecdsa", "--tls", "openssl", "--crypto", "openssl")
    with site.node("--verifier", "sgx_ecdsa_qve", "--tls", "openssl", "--crypto", "openssl") as node:
        done = site.shelter(node, *reference)
    assert done.code == 0, done
    assert done.stderr == ""
    assert f"App Enclave mrenclave: {site.mr_enclaves['workload']}" in done.stdout
    assert done.stdout.splitlines()[-1] == "Remote attestation is successful."
