"""What a signature covers goes through the cache untouched."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from eaa.collateral.x509 import Certificate
from eaa.pccs.verbatim import as_signed, compact, elements, members
from support.pccs import platform, signed

ODD = '{ "a" : 1.0e+0 , "b":[ 1 , {"c":"\\u00e4 / \\" } , ]"} ,[] ] , "d":{}, "e" : null }'


def slice_of(text: str, place: tuple[int, int]) -> str:
    return text[slice(*place)]


def test_members_are_found_where_they_stand() -> None:
    found = members(ODD)
    assert {name: slice_of(ODD, place) for name, place in found.items()} == {
        "a": "1.0e+0",
        "b": '[ 1 , {"c":"\\u00e4 / \\" } , ]"} ,[] ]',
        "d": "{}",
        "e": "null",
    }


def test_elements_are_found_where_they_begin() -> None:
    start, _ = members(ODD)["b"]
    places = list(elements(ODD, start))
    assert [ODD[at] for at in places] == ["1", "{", "["]
    assert members(ODD, places[1])["c"][0] > places[1]


@pytest.mark.parametrize("text", ["{}", "{ }", " {} "])
def test_an_empty_object_has_no_members(text: str) -> None:
    assert members(text) == {}


@pytest.mark.parametrize("text", ["[]", "[ ]"])
def test_an_empty_array_has_no_elements(text: str) -> None:
    assert list(elements(text, 0)) == []


def test_compacting_takes_spaces_between_tokens_and_nothing_else() -> None:
    assert compact(ODD) == '{"a":1.0e+0,"b":[1,{"c":"\\u00e4 / \\" } , ]"},[]],"d":{},"e":null}'
    assert compact('"\\\\" , " "') == '"\\\\"," "'


# --- signed documents

INNER = '{ "version":3, "odd" : 1.0e+0, "text":"\\/ \\u0041 " }'


def signer() -> Certificate:
    return Certificate.parse(platform().pki.tcb_signer.certificate.public_bytes(Encoding.DER))


def test_a_document_that_verifies_as_it_stands_is_kept_to_the_byte() -> None:
    document = signed("tcbInfo", INNER)
    assert as_signed(document, "tcbInfo", signer()) == document.encode()


def test_spaces_that_were_never_signed_go_and_nothing_else() -> None:
    """Tools that fetch collateral for another machine lay it out anew."""
    as_fetched = signed("tcbInfo", compact(INNER))
    laid_out = as_fetched.replace(":", " : ").replace(",", " ,\n ")
    assert laid_out != as_fetched
    assert as_signed(laid_out, "tcbInfo", signer()) == as_fetched.encode()


@pytest.mark.parametrize(
    "document",
    [
        signed("tcbInfo", INNER).replace("3", "4", 1),
        '{"tcbInfo":{ },"signature":"00"}',
        '{"signature":"00", "tcbInfo":{}}',
        f'{{"tcbInfo":{{ }}, "signature":"{"0" * 128}"}}',
    ],
)
def test_a_document_that_never_verifies_is_only_compacted(document: str) -> None:
    """Whether it may be stored is not decided here."""
    assert as_signed(document, "tcbInfo", signer()) == compact(document).encode()


def test_without_a_signer_the_compact_form_is_taken() -> None:
    document = signed("tcbInfo", INNER)
    assert as_signed(document, "tcbInfo", None) == compact(document).encode()
