"""A client of any PCCS, and of Intel's own PCS, which speaks the same protocol.

Source: Intel SGX PCCS REST API (routes, headers, encodings); the base URL is the one of sgx_default_qcnl.conf.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

import urllib3
from cryptography import x509
from urllib3.exceptions import HTTPError, InsecureRequestWarning, LocationParseError, SSLError

from eaa.collateral.bundle import MAX_DOCUMENT_SIZE, Collateral
from eaa.collateral.intel import SignedMember, split_signed_document
from eaa.errors import EAAError, MalformedInput, Misuse, Reason, Unanswered, Unavailable
from eaa.sources import PCKName
from eaa.sources.deadline import Deadline, watched_pool

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds for one request, from connecting to the last byte."""
DEFAULT_RETRIES: Final = 2
DEFAULT_RETRY_DELAY: Final = 0.25
"""Seconds."""
MAX_BODY: Final = MAX_DOCUMENT_SIZE
"""Bytes of one answer; the largest TCB Info known has under 64 KiB, the limit of Intel's own client."""
MAX_CHAIN: Final = 64 * 1024
"""Bytes of one issuer chain."""
INTEL_PCS_DOMAIN: Final = "trustedservices.intel.com"
"""A host below it is Intel's PCS, which has no route for the root's CRL."""
INTEL_ROOT_CRL_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"

_TDX: Final = 0x81
_DER_SEQUENCE: Final = b"\x30"
_PEM_BEGINS: Final = b"-----BEGIN CERTIFICATE-----"
_API_PATH: Final = re.compile(r"(?P<prefix>.*)/(?:sgx|tdx)/certification/(?P<version>v[0-9]+)/*", re.IGNORECASE)
_URL_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~:/@!$&'()*+,;=%\[\]?#-]{1,2000}")
_CRL_ADDRESS: Final = re.compile(r"https?://[A-Za-z0-9._~:/-]{1,500}")
_SERVER_ERROR: Final = 500
_TOO_MANY_REQUESTS: Final = 429
_NOT_FOUND: Final = frozenset({404, 461})
_RETRIED: Final = frozenset({503})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseURL:
    """Where a PCCS lies: the part of its URLs before `/sgx/certification/v4/`."""

    root: str
    """Scheme, host, port and any prefix, without a final slash."""
    version: str = "v4"

    @classmethod
    def parse(cls, text: str) -> BaseURL:
        """Accept a base URL with or without its API path. Raises Misuse (ADDRESS_INVALID)."""
        parts = _split_url(text)
        if parts is None:
            raise Misuse(
                Reason.ADDRESS_INVALID,
                f"{text!r} is no base URL of a PCCS",
                hint="write it as in sgx_default_qcnl.conf, https://HOST:8081/sgx/certification/v4/ for instance",
            )
        match = _API_PATH.fullmatch(parts.path)
        prefix = match["prefix"] if match else parts.path.rstrip("/")
        version = match["version"].lower() if match else "v4"
        return cls(root=f"{parts.scheme}://{parts.netloc}{prefix}", version=version)

    def of(self, product: str) -> str:
        """Return the URL that `tcb` and the other routes of a product (`sgx`, `tdx`) are appended to."""
        return f"{self.root}/{product}/certification/{self.version}/"

    @property
    def is_intel_pcs(self) -> bool:
        """Whether this is Intel's own service and not a cache."""
        host = urlsplit(self.root).hostname or ""
        return host == INTEL_PCS_DOMAIN or host.endswith(f".{INTEL_PCS_DOMAIN}")


def _split_url(text: str) -> SplitResult | None:
    """Return the parts of an http(s) URL with a host and nothing behind its path, or None."""
    if not _URL_CHARACTERS.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_usable and not (parts.query or parts.fragment or "@" in parts.netloc) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PCKOptions:
    """What goes along with requests for PCK certificates: `custom_request_options.get_cert`."""

    headers: tuple[tuple[str, str], ...] = ()
    params: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Transient(Exception):
    """Worth another try; holds what to raise when there is none left."""

    def __init__(self, failure: Unavailable) -> None:
        self.failure = failure


@dataclass(slots=True, kw_only=True)
class _Client:
    """One service's connection pool, with its limits and its patience."""

    pool: urllib3.PoolManager
    timeout: float
    retries: int
    retry_delay: float
    """Seconds; 0 doubles from one second, as Intel's library does."""
    sleep: Callable[[float], object]

    def request(self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str]) -> _Answer:
        """Return the answer, whatever its status, after the retries that a status 503 or a dead line earn."""
        for attempt in range(self.retries + 1):
            try:
                return self._once(method, url, body=body, headers=headers)
            except _Transient as transient:
                if attempt == self.retries:
                    raise transient.failure from transient
                delay = self.retry_delay or 2.0**attempt
                _log.info("%s; trying again in %.3g s", transient.failure.message, delay)
                self.sleep(delay)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _once(self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str]) -> _Answer:
        with Deadline(self.timeout) as deadline:
            try:
                answer = self._answer(method, url, body=body, headers=headers)
            except LocationParseError as error:
                raise Misuse(Reason.ADDRESS_INVALID, f"{url} is no URL") from error
            except (HTTPError, OSError) as error:
                if deadline.expired:
                    raise _Transient(_unfinished(url)) from error
                if isinstance(error, SSLError):
                    raise _tls_failure(url, error) from error
                raise _Transient(_unreachable(url, error)) from error
        if deadline.expired:
            raise _Transient(_unfinished(url))
        if answer.status in _RETRIED:
            raise _Transient(_refusal(url, answer))
        return answer

    def _answer(self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str]) -> _Answer:
        response = self.pool.request(
            method,
            url,
            body=body,
            headers=dict(headers),
            timeout=urllib3.Timeout(total=self.timeout),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        try:
            return _Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=_read_bounded(response, url),
            )
        finally:
            # Never handed back to the pool: what is left of an oversized answer must not be read as the next one.
            response.close()


def _read_bounded(response: urllib3.BaseHTTPResponse, url: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read1(64 * 1024, decode_content=True):
        size += len(chunk)
        if size > MAX_BODY:
            raise _error(url, f"sent more than {MAX_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _tls_context(ca_file: Path | None, *, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Misuse(
            Reason.FILE_UNREADABLE,
            f"the CA file {ca_file} cannot be used: {error.strerror or error}",
            hint="it has to hold PEM certificates",
        ) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # Whoever chose this was told so; the library would repeat it with each request.
        urllib3.disable_warnings(InsecureRequestWarning)
    return context


def _make_client(
    base: BaseURL,
    *,
    ca_file: Path | None,
    verify: bool,
    timeout: float,
    retries: int,
    retry_delay: float,
    sleep: Callable[[float], object],
) -> _Client:
    # Reading the system's CAs takes longer than a request: not for plain http.
    context = _tls_context(ca_file, verify=verify) if ca_file or base.root.startswith("https") else None
    pool = watched_pool(context)
    return _Client(pool=pool, timeout=timeout, retries=retries, retry_delay=retry_delay, sleep=sleep)


class PCCSSource:
    """Collateral from one PCCS. Thread-safe."""

    def __init__(  # noqa: PLR0913  each is a setting of one protocol
        self,
        base_url: str,
        *,
        ca_file: Path | None = None,
        dangerous_skip_tls_verification: bool = False,
        update: str = "standard",
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = DEFAULT_RETRIES,
        retry_delay: float = DEFAULT_RETRY_DELAY,
        sleep: Callable[[float], object] = time.sleep,
        api_version: str | None = None,
        pck_options: PCKOptions | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            base_url: as in sgx_default_qcnl.conf, with or without `/sgx/certification/v4/`.
            ca_file: PEM, trusted in place of the system's CAs.
            dangerous_skip_tls_verification: take any server for this one. Collateral is signed, so what this gives
                away is who asks, and the power to withhold.
            update: `standard` or `early` TCB recovery data.
            timeout: seconds for one request.
            retries: how often a request is repeated after status 503, a timeout or a failed connection.
            retry_delay: seconds between them; 0 for 1, 2, 4 and so on.
            sleep: how to wait.
            api_version: as Intel's library asks with this `pccs_api_version`: `3.0` for CRLs in hex, `3.1` for DER and
                for the root's by its address. None: in the way that every PCCS understands.
            pck_options: what goes along with requests for PCK certificates.

        Raises:
            Misuse: the URL or the CA file cannot be used.
        """
        self.base_url = BaseURL.parse(base_url)
        self._update = update
        self._api_version = api_version
        self._pck_options = pck_options or PCKOptions()
        if dangerous_skip_tls_verification:
            _log.warning("the TLS certificate of the PCCS at %s is NOT verified", self.base_url.root)
        self._client = _make_client(
            self.base_url,
            ca_file=ca_file,
            verify=not dangerous_skip_tls_verification,
            timeout=timeout,
            retries=retries,
            retry_delay=retry_delay,
            sleep=sleep,
        )

    def fetch(self, *, tee: int, fmspc: bytes, ca: str) -> Collateral:
        """Return the collateral for one platform model.

        Raises:
            Unavailable: PCCS_UNREACHABLE, PCCS_ERROR (it answered something else than the protocol says) or
                COLLATERAL_NOT_FOUND.
        """
        sgx = self.base_url.of("sgx")
        product = self.base_url.of("tdx" if tee == _TDX else "sgx")
        model = fmspc.hex().upper()
        encoding = "" if self._api_version == "3.0" and not self.base_url.is_intel_pcs else "&encoding=der"
        crl = self._get(f"{sgx}pckcrl?ca={ca}{encoding}", what=f"the CRL of the {ca} CA")
        tcb = self._get(f"{product}tcb?fmspc={model}&update={self._update}", what=f"TCB Info for FMSPC {model}")
        identity = self._get(f"{product}qe/identity?update={self._update}", what="the QE identity")
        tcb_info, tcb_info_signature = _signed(tcb, "tcbInfo")
        qe_identity, qe_identity_signature = _signed(identity, "enclaveIdentity")
        chain = _chain(crl, "SGX-PCK-CRL-Issuer-Chain")
        return Collateral(
            pck_crl_issuer_chain=chain,
            root_ca_crl=self._root_crl(chain),
            pck_crl=_der(crl),
            tcb_info_issuer_chain=_chain(tcb, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
            tcb_info=tcb_info,
            tcb_info_signature=tcb_info_signature,
            qe_identity_issuer_chain=_chain(identity, "SGX-Enclave-Identity-Issuer-Chain"),
            qe_identity=qe_identity,
            qe_identity_signature=qe_identity_signature,
        )

    def fetch_pck_chain(self, name: PCKName) -> bytes:
        """Return the PCK certificate of one platform at one TCB, and its issuers: PEM.

        Raises:
            Unavailable: as `fetch`.
        """
        route = f"{self.base_url.of('sgx')}pckcert"
        query = {
            "qeid": name.qe_id.hex(),
            "encrypted_ppid": "" if name.encrypted_ppid is None else name.encrypted_ppid.hex(),
            "cpusvn": name.cpu_svn.hex(),
            "pcesvn": name.pce_svn.to_bytes(2, "little").hex(),
            "pceid": name.pce_id.hex(),
        }
        named = [f"{key}={value.upper()}" for key, value in query.items() if value]
        options = self._pck_options
        named += [f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in options.params]
        url = f"{route}?{'&'.join(named)}"
        try:
            answer = self._get(url, what="the PCK certificate of this platform", headers=dict(options.headers))
            return _pem(answer) + _chain(answer, "SGX-PCK-Certificate-Issuer-Chain")
        except Unavailable as error:
            # The query singles out one machine, and is not for logs.
            raise type(error)(error.reason, error.message.replace(url, route), hint=error.hint) from None

    def _root_crl(self, chain: bytes) -> bytes:
        if self.base_url.is_intel_pcs:
            url = INTEL_ROOT_CRL_URL
        elif self._api_version == "3.1":
            # Not percent-encoded, as Intel's library sends it.
            url = f"{self.base_url.of('sgx')}crl?uri={_published_at(chain)}"
        else:
            url = f"{self.base_url.of('sgx')}rootcacrl"
        return _der(self._get(url, what="the root CA's CRL"))

    def _get(self, url: str, *, what: str, headers: Mapping[str, str] | None = None) -> _Document:
        answer = self._client.request("GET", url, headers={"accept": "*/*", **(headers or {})})
        if answer.status in _NOT_FOUND:
            raise Unavailable(
                Reason.COLLATERAL_NOT_FOUND,
                f"the PCCS has no {what.removeprefix('the ')} ({url} answered {answer.status})",
                hint="register the platform with that PCCS or upload its collateral (`eaa-pccs upload`), "
                "or name another PCCS",
            )
        if answer.status != 200:
            raise _refusal(url, answer)
        return _Document(url=url, what=what, answer=answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    url: str
    what: str
    answer: _Answer


def _published_at(chain: bytes) -> str:
    """Return where the root at the end of a chain says that its CRL is; where Intel's is if it says nothing usable."""
    try:
        root = x509.load_pem_x509_certificates(chain)[-1]
        points = root.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        names = [name.value for point in points for name in point.full_name or ()]
    except (ValueError, x509.ExtensionNotFound):
        return INTEL_ROOT_CRL_URL
    usable = [name for name in names if isinstance(name, str) and _CRL_ADDRESS.fullmatch(name)]
    return usable[0] if usable else INTEL_ROOT_CRL_URL


def _signed(document: _Document, member: SignedMember) -> tuple[bytes, bytes]:
    try:
        return split_signed_document(document.answer.body, member)
    except MalformedInput as error:
        raise _error(document.url, f"answered with something that is not {document.what}: {error.message}") from error


def _chain(document: _Document, *names: str) -> bytes:
    """Return a percent-encoded PEM chain from the first of these headers that is there."""
    for name in names:
        value = document.answer.headers.get(name.lower())
        if value is not None and len(value) <= MAX_CHAIN:
            chain = unquote_to_bytes(value)
            if _PEM_BEGINS in chain and chain.isascii():
                return chain
    raise _error(document.url, f"answered without a certificate chain in the header {names[0]}")


def _pem(document: _Document) -> bytes:
    """Return one certificate from a body, with its last line ended."""
    body = document.answer.body
    if not body.startswith(_PEM_BEGINS) or body.count(_PEM_BEGINS) != 1:
        raise _error(document.url, f"answered with something that is not {document.what}")
    return body.rstrip() + b"\n"


def _der(document: _Document) -> bytes:
    """Return a CRL sent as DER, or as the hex of it, which caches label in the same way."""
    body = document.answer.body
    # Hex of DER starts with the digit 3, which is another byte than the tag itself.
    return body if body[:1] == _DER_SEQUENCE else _from_hex(document)


def _from_hex(document: _Document) -> bytes:
    try:
        raw = bytes.fromhex(document.answer.body.decode("ascii"))
    except ValueError as error:
        raise _error(document.url, f"answered with something that is not {document.what}") from error
    if raw[:1] != _DER_SEQUENCE:
        raise _error(document.url, f"answered with something that is not {document.what}")
    return raw


def _error(url: str, what: str) -> Unavailable:
    return Unavailable(
        Reason.PCCS_ERROR, f"the PCCS {what} ({url})", hint="check that this URL is a PCCS, and look at its log"
    )


def _refusal(url: str, answer: _Answer) -> Unavailable:
    error = _error(url, f"answered with status {answer.status}: {_sentence(answer)}")
    if answer.status >= _SERVER_ERROR or answer.status == _TOO_MANY_REQUESTS:
        # It says nothing of what was asked for, only that it cannot say it now.
        return Unanswered(error.reason, error.message, hint=error.hint)
    return error


def _sentence(answer: _Answer) -> str:
    """Return what the server said, fit for one line of a log: it is a stranger's text."""
    text = answer.body[:200].decode("ascii", "replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split()) or "nothing said"


def _unreachable(url: str, error: Exception) -> Unavailable:
    return Unanswered(
        Reason.PCCS_UNREACHABLE,
        f"the PCCS cannot be reached at {url}: {_root_cause(error)}",
        hint="check the address and that a PCCS listens there (`eaa-pccs serve` starts one)",
    )


def _unfinished(url: str) -> Unavailable:
    return Unanswered(
        Reason.PCCS_UNREACHABLE,
        f"the PCCS did not finish its answer to {url} in time",
        hint="try again, or name another PCCS",
    )


def _tls_failure(url: str, error: Exception) -> Unavailable:
    if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER_FAILURE" in str(error):
        return Unanswered(
            Reason.PCCS_UNREACHABLE,
            f"what listens at {url} does not speak TLS",
            hint="if that PCCS serves plain http, write http:// in its URL",
        )
    return Unanswered(
        Reason.PCCS_UNREACHABLE,
        f"the PCCS at {url} is not trusted: {_root_cause(error)}",
        hint="name the CA of its TLS certificate (--pccs-ca FILE), and the host as that certificate names it",
    )


def _root_cause(error: BaseException) -> str:
    """Return the innermost sentence: the outer ones only say which library call it passed through."""
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__ or _reason(seen)) is not None:
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return str(seen).rsplit(": ", 1)[-1] or type(seen).__name__


def _reason(error: BaseException) -> BaseException | None:
    reason = getattr(error, "reason", None)
    return reason if isinstance(reason, BaseException) else None


def upload(
    base_url: str,
    body: bytes,
    token: str,
    *,
    ca_file: Path | None = None,
    timeout: float = 30.0,
) -> None:
    """Store collateral in a PCCS: PUT /platformcollateral.

    Args:
        base_url: as for PCCSSource.
        body: the JSON object of `platforms` and `collaterals`, sent as it is.
        token: the administrator's token.
        ca_file: PEM, trusted in place of the system's CAs.
        timeout: seconds.

    Raises:
        MalformedInput: COLLATERAL_MALFORMED, the PCCS refuses the document.
        Unavailable: PCCS_UNREACHABLE, PERMISSION_DENIED (the token), PCCS_ERROR.
    """
    base = BaseURL.parse(base_url)
    url = f"{base.of('sgx')}platformcollateral"
    client = _make_client(
        base, ca_file=ca_file, verify=True, timeout=timeout, retries=0, retry_delay=0, sleep=time.sleep
    )
    answer = client.request("PUT", url, body=body, headers={"content-type": "application/json", "admin-token": token})
    if answer.status != 200:
        raise _upload_refused(url, answer)


def _upload_refused(url: str, answer: _Answer) -> EAAError:
    if answer.status == 401:
        return Unavailable(
            Reason.PERMISSION_DENIED,
            f"the PCCS does not accept this administrator token ({url})",
            hint="`eaa-pccs serve --admin-token-file FILE` sets it; give the same file here",
        )
    if answer.status in (400, 413, 460):
        return MalformedInput(
            Reason.COLLATERAL_MALFORMED,
            f"the PCCS refuses this collateral with status {answer.status}: {_sentence(answer)}",
            hint="its log says which part is wrong",
        )
    return _refusal(url, answer)
