"""Evidence from Gramine, Occlum and the software TEE, and the traps that each of them sets."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eaa.attesters import Attester, open_attester
from eaa.attesters.gramine import GramineAttester
from eaa.attesters.occlum import DETECT_DCAP_DRIVER, GEN_DCAP_QUOTE, GET_DCAP_QUOTE_SIZE, OcclumAttester
from eaa.attesters.quoted import finished_quote
from eaa.attesters.simulated import SimulatedAttester
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, Unavailable, VerificationError
from eaa.evidence.quote import MAX_QUOTE_SIZE, Quote
from eaa.simulator.images import sample_image
from support.enclave_runtimes import Occlum, gramine
from support.pccs import platform
from support.simulated import NOW, sample_enclave

ASKED = bytes(range(64))
OTHER = bytes(64)


def make_quote(report_data: bytes) -> bytes:
    return platform().launch(*sample_enclave()).quote(report_data)


def padded(report_data: bytes) -> bytes:
    return make_quote(report_data).ljust(8192, b"\0")


def refusal(attester: Attester, report_data: bytes = ASKED) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        attester.quote(report_data)
    assert refused.value.reason is Reason.QUOTE_UNAVAILABLE
    return refused.value


# --- the bytes that come back


@pytest.mark.parametrize("behind", [b"", b"\0", b"\0" * 4000, b"what another call left there"])
def test_a_quote_is_cut_out_of_the_buffer_it_came_in(behind: bytes) -> None:
    quote = make_quote(ASKED)
    assert finished_quote(quote + behind, report_data=ASKED, source="a test") == quote


@pytest.mark.parametrize("raw", [b"", bytes(8192), make_quote(ASKED)[:-1], make_quote(ASKED) + bytes(MAX_QUOTE_SIZE)])
def test_something_that_is_no_quote_is_not_passed_on(raw: bytes) -> None:
    with pytest.raises(Unavailable) as refused:
        finished_quote(raw, report_data=ASKED, source="a test")
    assert refused.value.reason is Reason.QUOTE_UNAVAILABLE


def test_a_quote_for_another_question_is_not_passed_on() -> None:
    """Some interfaces drop a request without a word and serve the answer to the one before."""
    with pytest.raises(Unavailable) as refused:
        finished_quote(make_quote(OTHER), report_data=ASKED, source="a test")
    assert refused.value.reason is Reason.QUOTE_UNAVAILABLE


# --- Gramine


def test_gramine_quotes_what_was_asked(tmp_path: Path) -> None:
    with gramine(tmp_path, padded) as fake:
        attester = GramineAttester(fake.base)
        assert attester.absence() is None
        for report_data in (ASKED, OTHER, ASKED):
            assert Quote.parse(attester.quote(report_data)).body.report_data == report_data
        assert fake.written == [ASKED, OTHER, ASKED]


def test_gramine_is_written_to_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write replaces the value and pads it with zeros: 63 bytes and one more would leave one byte."""
    writes: list[bytes] = []

    def write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return original(descriptor, data)

    original = os.write
    with gramine(tmp_path, make_quote) as fake:
        monkeypatch.setattr(os, "write", write)
        GramineAttester(fake.base).quote(ASKED)
    assert writes == [ASKED]


def test_gramine_that_takes_less_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gramine(tmp_path, make_quote) as fake:
        monkeypatch.setattr(os, "write", lambda _descriptor, data: len(data) - 1)
        refusal(GramineAttester(fake.base))


def test_gramine_s_files_are_one_state_so_that_threads_take_turns(tmp_path: Path) -> None:
    asked = [bytes([index]) * 64 for index in range(8)]
    with gramine(tmp_path, make_quote) as fake, ThreadPoolExecutor(max_workers=8) as pool:
        attester = GramineAttester(fake.base)
        quotes = list(pool.map(attester.quote, asked))
    assert [Quote.parse(quote).body.report_data for quote in quotes] == asked


def test_gramine_that_serves_an_old_quote_is_found_out(tmp_path: Path) -> None:
    with gramine(tmp_path, lambda _: make_quote(OTHER)) as fake:
        refusal(GramineAttester(fake.base))


def test_gramine_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    with gramine(tmp_path, lambda asked: make_quote(asked) + b"\1" * (2 * MAX_QUOTE_SIZE)) as fake:
        refusal(GramineAttester(fake.base))


def test_gramine_s_error_surfaces_where_the_quote_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "attestation"
    folder.mkdir()
    (folder / "user_report_data").write_bytes(b"")
    error = refusal(GramineAttester(folder))
    assert str(folder / "quote") in error.message


@pytest.mark.parametrize("kind", ["none", "epid", "", "dcap2"])
def test_gramine_without_dcap_is_no_attester(tmp_path: Path, kind: str) -> None:
    with gramine(tmp_path, make_quote, kind=kind) as fake:
        assert repr(kind) in str(GramineAttester(fake.base).absence())


# --- Occlum


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "sgx"
    path.touch()
    return path


def test_occlum_quotes_what_was_asked(device: Path) -> None:
    fake = Occlum(make=make_quote)
    attester = OcclumAttester(device, ioctl=fake)
    assert attester.absence() is None
    quote = attester.quote(ASKED)
    assert Quote.parse(quote).encode() == quote
    assert Quote.parse(attester.quote(OTHER)).body.report_data == OTHER
    assert fake.requests[:3] == [DETECT_DCAP_DRIVER, GET_DCAP_QUOTE_SIZE, GEN_DCAP_QUOTE]


def test_occlum_s_numbers_are_those_of_its_headers() -> None:
    """Direction, size of the argument, 's', number: as the C macros build them."""
    read, write = 2, 1

    def number(direction: int, size: int, which: int) -> int:
        return direction << 30 | size << 16 | ord("s") << 8 | which

    assert number(read, 4, 6) == DETECT_DCAP_DRIVER
    assert number(read, 4, 7) == GET_DCAP_QUOTE_SIZE
    assert number(read | write, 24, 8) == GEN_DCAP_QUOTE


@pytest.mark.parametrize("size", [0, MAX_QUOTE_SIZE + 1, 0xFFFFFFFF])
def test_occlum_s_size_is_bounded_before_anything_is_allocated(device: Path, size: int) -> None:
    refusal(OcclumAttester(device, ioctl=Occlum(make=make_quote, quote_size=size)))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EBUSY, errno.EIO])
def test_occlum_s_errors_are_told_apart(device: Path, code: int) -> None:
    error = refusal(OcclumAttester(device, ioctl=Occlum(make=make_quote, fails_with=code)))
    assert os.strerror(code) in error.message
    assert error.hint


def test_occlum_that_serves_an_old_quote_is_found_out(device: Path) -> None:
    refusal(OcclumAttester(device, ioctl=Occlum(make=lambda _: make_quote(OTHER))))


def test_occlum_without_a_driver_on_its_host_is_no_attester(device: Path) -> None:
    assert "no DCAP driver" in str(OcclumAttester(device, ioctl=Occlum(make=make_quote, has_driver=False)).absence())


def test_a_host_s_own_device_is_not_occlum_s(tmp_path: Path, device: Path) -> None:
    """A file, or the folder of the host's drivers, knows no such ioctl."""
    (tmp_path / "folder").mkdir()
    for path in (device, tmp_path / "folder"):
        assert os.strerror(errno.ENOTTY) in str(OcclumAttester(path).absence())
        refusal(OcclumAttester(path))


# --- the software TEE


@pytest.fixture
def simulator(tmp_path: Path) -> Path:
    folder = tmp_path / "simulator"
    folder.mkdir(mode=0o700)
    for name, content in platform().to_files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "workload.sgxs"
    image, sigstruct = sample_enclave()
    path.write_bytes(image)
    path.with_suffix(".sigstruct").write_bytes(sigstruct)
    return path


def test_a_software_tee_quotes_what_was_asked(simulator: Path, image: Path) -> None:
    attester = open_attester("sgx_sim", simulator=simulator, enclave=image)
    assert attester is not None
    assert (attester.name, attester.tee) == ("sgx_sim", "sgx")
    quote = Quote.parse(attester.quote(ASKED))
    assert quote.body.report_data == ASKED
    assert quote.body == Quote.parse(make_quote(ASKED)).body


def test_the_sigstruct_may_lie_elsewhere(simulator: Path, image: Path, tmp_path: Path) -> None:
    elsewhere = image.with_suffix(".sigstruct").rename(tmp_path / "elsewhere")
    assert SimulatedAttester.open(simulator, image=image, sigstruct=elsewhere).quote(ASKED)


def test_other_files_in_the_folder_do_no_harm(simulator: Path, image: Path) -> None:
    (simulator / "large").write_bytes(bytes(1024 * 1024))
    (simulator / "folder").mkdir()
    assert SimulatedAttester.open(simulator, image=image).quote(ASKED)


def test_quotes_may_be_asked_for_from_threads(simulator: Path, image: Path) -> None:
    attester = SimulatedAttester.open(simulator, image=image)
    gate = threading.Barrier(4)

    def ask(index: int) -> int:
        gate.wait()
        return Quote.parse(attester.quote(bytes([index]) * 64)).body.report_data[0]

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert list(pool.map(ask, range(4))) == [0, 1, 2, 3]


def drop(path: Path) -> None:
    path.unlink()


def scribble(path: Path) -> None:
    path.write_text("no such thing")


def lengthen(path: Path) -> None:
    os.truncate(path, 65 * 1024 * 1024)


@pytest.mark.parametrize(
    ("name", "harm", "kind", "reason"),
    [
        ("simulator/platform.json", drop, Misuse, Reason.FILE_UNREADABLE),
        ("simulator/platform.json", scribble, Misuse, Reason.SIMULATOR_INVALID),
        ("simulator/root.pem", scribble, Misuse, Reason.SIMULATOR_INVALID),
        ("simulator/root.pem", lengthen, Misuse, Reason.FILE_UNREADABLE),
        ("workload.sgxs", drop, Misuse, Reason.FILE_UNREADABLE),
        ("workload.sgxs", lengthen, Misuse, Reason.FILE_UNREADABLE),
        ("workload.sigstruct", drop, Misuse, Reason.FILE_UNREADABLE),
        ("workload.sigstruct", scribble, MalformedInput, Reason.SIGSTRUCT_MALFORMED),
    ],
)
def test_what_lies_there_has_to_be_a_platform_and_an_image(
    tmp_path: Path,
    simulator: Path,
    image: Path,
    name: str,
    harm: Callable[[Path], None],
    kind: type[EAAError],
    reason: Reason,
) -> None:
    harm(tmp_path / name)
    with pytest.raises(kind) as refused:
        SimulatedAttester.open(simulator, image=image)
    assert refused.value.reason is reason


def test_an_image_is_launched_as_hardware_would_launch_it(simulator: Path, image: Path) -> None:
    other, _ = sample_image("another", now=NOW)
    image.write_bytes(other)
    with pytest.raises(VerificationError) as refused:
        SimulatedAttester.open(simulator, image=image)
    assert refused.value.reason is Reason.ENCLAVE_LAUNCH


# --- which attester


def test_nobody_attests_who_says_so() -> None:
    assert open_attester("nullattester") is None


@pytest.mark.parametrize(
    "name", ["sgx_la", "tdx_ecdsa", "sev_snp", "sev", "csv", "sgx_epid", "nullquote", "SGX_ECDSA", "", "unknown"]
)
def test_a_name_that_is_not_answered_is_misuse(name: str) -> None:
    with pytest.raises(Misuse) as refused:
        open_attester(name)
    assert refused.value.reason is Reason.NOT_IMPLEMENTED_VALUE
    assert refused.value.hint is not None
    assert "sgx_sim" in refused.value.hint


@pytest.mark.parametrize("missing", ["simulator", "enclave"])
def test_the_software_tee_needs_a_platform_and_an_image(simulator: Path, image: Path, missing: str) -> None:
    named = {"simulator": simulator, "enclave": image}
    del named[missing]
    with pytest.raises(Misuse) as refused:
        open_attester("sgx_sim", **named)
    assert refused.value.reason is Reason.USAGE
    assert f"--{missing}" in refused.value.message


def test_gramine_is_found_where_its_files_are(tmp_path: Path) -> None:
    with gramine(tmp_path, make_quote):
        attester = open_attester("sgx_ecdsa", devices=tmp_path)
        assert attester is not None
        assert attester.name == "gramine"
        assert Quote.parse(attester.quote(ASKED)).body.report_data == ASKED


def test_occlum_is_found_where_its_device_answers(
    tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Occlum(make=make_quote)
    monkeypatch.setattr(
        "fcntl.ioctl", lambda descriptor, request, argument, _mutate: fake(descriptor, request, argument)
    )
    attester = open_attester("sgx_ecdsa", devices=tmp_path)
    assert attester is not None
    assert attester.name == "occlum"
    assert Quote.parse(attester.quote(ASKED)).body.report_data == ASKED
    assert device.exists()


def test_without_an_enclave_it_is_said_what_was_looked_for_and_what_else_there_is(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        open_attester("sgx_ecdsa", devices=tmp_path)
    error = refused.value
    assert error.reason is Reason.TEE_NOT_FOUND
    assert str(tmp_path / "attestation" / "attestation_type") in error.message
    assert str(tmp_path / "sgx") in error.message
    assert error.hint is not None
    assert "--attester sgx_sim --simulator DIR" in error.hint


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_have_64_bytes(tmp_path: Path, simulator: Path, image: Path, size: int) -> None:
    """Padding them would change what they say: that is the caller's to decide."""
    attesters: list[Attester] = [
        GramineAttester(tmp_path),
        OcclumAttester(tmp_path),
        SimulatedAttester.open(simulator, image=image),
    ]
    for attester in attesters:
        with pytest.raises(ValueError, match="64 bytes"):
            attester.quote(bytes(size))
