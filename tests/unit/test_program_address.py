"""Addresses as people write them, and nothing guessed where they are wrong."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from eaa.errors import Misuse, Reason
from eaa.program.address import ADDRESS, Address, TCPAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://127.0.0.1:1236", TCPAddress("127.0.0.1", 1236)),
        ("127.0.0.1:1234", TCPAddress("127.0.0.1", 1234)),
        ("0.0.0.0:0", TCPAddress("0.0.0.0", 0)),
        ("node-7.example.org:65535", TCPAddress("node-7.example.org", 65535)),
        ("localhost:1", TCPAddress("localhost", 1)),
        ("tcp://[::1]:1236", TCPAddress("::1", 1236)),
        ("[fe80::1%eth0]:80", TCPAddress("fe80::1%eth0", 80)),
        ("[::ffff:10.0.0.1]:80", TCPAddress("::ffff:10.0.0.1", 80)),
        ("unix:///run/eaa/relay.sock", UnixAddress(Path("/run/eaa/relay.sock"))),
        ("unix://relay.sock", UnixAddress(Path("relay.sock"))),
        ("/run/enclave-tls/tls.sock", UnixAddress(Path("/run/enclave-tls/tls.sock"))),
        ("./tls.sock", UnixAddress(Path("tls.sock"))),
        ("run/with:colon/s", UnixAddress(Path("run/with:colon/s"))),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("127.0.0.1", id="no port"),
        pytest.param("127.0.0.1:", id="an empty port"),
        pytest.param(":1234", id="no host"),
        pytest.param("tcp://", id="a scheme alone"),
        pytest.param("127.0.0.1:65536", id="a port too high"),
        pytest.param("127.0.0.1:99999", id="a port far too high"),
        pytest.param("127.0.0.1:http", id="a port by name"),
        pytest.param("127.0.0.1:-1", id="a negative port"),
        pytest.param("127.0.0.1:12 34", id="a space in the port"),
        pytest.param("127.0.0.1:\u0661", id="a digit of another script"),
        pytest.param("::1:1234", id="IPv6 without brackets"),
        pytest.param("[::1]", id="IPv6 without a port"),
        pytest.param("[]:80", id="empty brackets"),
        pytest.param("http://127.0.0.1:80", id="another scheme"),
        pytest.param("tcp://127.0.0.1:80/path", id="a path behind the port"),
        pytest.param("two words:80", id="a space in the host"),
        pytest.param("unix://", id="no path"),
        pytest.param("unix:///" + "x" * 107, id="a path longer than the kernel takes"),
        pytest.param("/" + "ü" * 54, id="a path of too many bytes"),
        pytest.param("tcp://127.0.0.1:80\n", id="a line end"),
    ],
)
def test_anything_else_is_misuse(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        parse_address(text)
    assert caught.value.reason is Reason.ADDRESS_INVALID
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["tcp://127.0.0.1:1236", "tcp://[::1]:1236", "tcp://localhost:1", "unix:///run/eaa.sock"]
)
def test_an_address_is_printed_as_it_can_be_typed(text: str) -> None:
    assert str(parse_address(text)) == text
    assert parse_address(str(parse_address(text))) == parse_address(text)


def test_the_longest_path_is_taken() -> None:
    assert parse_address("unix://" + "x" * 107) == UnixAddress(Path("x" * 107))


def test_an_option_can_be_an_address() -> None:
    @click.command()
    @click.option("--addr", type=ADDRESS, default=TCPAddress("localhost", 1))
    def command(*, addr: Address) -> None:
        click.echo(str(addr))

    assert CliRunner().invoke(command, []).output == "tcp://localhost:1\n"
    assert CliRunner().invoke(command, ["--addr", "[::1]:2"]).output == "tcp://[::1]:2\n"
    assert isinstance(CliRunner().invoke(command, ["--addr", "nowhere"]).exception, Misuse)
