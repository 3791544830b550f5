"""A simulated SGX machine: created, provisioned, stored, and quoting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Unpack

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from eaa.collateral.bundle import Collateral
from eaa.errors import Misuse, Reason
from eaa.evidence.quote import TEEType
from eaa.simulator.certificates import to_header, to_pem, whole_second
from eaa.simulator.cpu import EnclaveIdentity, Processor, TargetInfo
from eaa.simulator.endorsements import Endorser
from eaa.simulator.entropy import Entropy
from eaa.simulator.faults import NO_FAULTS, Fault, Faults, Stage, faults_of, require_stage
from eaa.simulator.model import REVISABLE, PlatformModel, PlatformOptions
from eaa.simulator.pki import SimulatedPKI, random_serial
from eaa.simulator.quoting import QuoteLayout, QuotingEnclave
from eaa.simulator.sgx_extension import SGXExtension

ROOT_FILE: Final = "root.pem"
"""Public: the trust anchor, all that a verifier reads."""
SECRETS_FILE: Final = "platform.json"
"""Secret: everything else, from which every key of the machine and of its vendor follows."""
MAX_FILE: Final = 64 * 1024
_FORMAT: Final = "EAA simulated SGX platform"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One machine with its vendor."""

    model: PlatformModel
    pki: SimulatedPKI
    entropy: Entropy
    created: datetime
    faults: Faults
    """Those of stage PLATFORM; the PKI keeps its own."""
    quote_faults: Faults = NO_FAULTS
    """Those of stage QUOTE that every quote of this machine has."""
    pck_key: ec.EllipticCurvePrivateKey = field(repr=False)
    pck_certificate: x509.Certificate

    @classmethod
    def create(
        cls,
        *,
        now: datetime,
        pki: SimulatedPKI | None = None,
        seed: bytes | None = None,
        faults: Faults = NO_FAULTS,
        **options: Unpack[PlatformOptions],
    ) -> Platform:
        """Make and provision a machine at `now`.

        Args:
            now: aware; its certificates are valid from a day before it.
            pki: the vendor, so that machines can share one root; a new one where None.
            seed: 32 bytes that decide every key of the machine, and of a new vendor; secret and random where None.
            faults: of stages PKI and PLATFORM; those of stage PKI only together with a new vendor.
            **options: fields of PlatformModel.

        Raises:
            Misuse: SIMULATOR_INVALID, options or faults that cannot be.
        """
        own_stages = (Stage.PLATFORM,) if pki else (Stage.PKI, Stage.PLATFORM)
        faults = require_stage(faults, *own_stages)
        entropy = Entropy.create(seed)
        if pki is None:
            pki = SimulatedPKI.create(now=now, seed=entropy.take(32, "vendor"), faults=faults_of(faults, Stage.PKI))
        return cls._provision(
            model=PlatformModel(**options),
            pki=pki,
            entropy=entropy,
            created=whole_second(now),
            faults=faults_of(faults, Stage.PLATFORM),
        )

    @classmethod
    def _provision(
        cls, *, model: PlatformModel, pki: SimulatedPKI, entropy: Entropy, created: datetime, faults: Faults
    ) -> Platform:
        key = entropy.key("PCK")
        certificate = pki.issue_pck(
            ca=model.ca,
            key=key,
            serial=random_serial(entropy, "PCK serial"),
            now=created,
            extension=_extension(model, entropy),
            faults=faults,
        )
        return cls(
            model=model,
            pki=pki,
            entropy=entropy,
            created=created,
            faults=faults,
            pck_key=key,
            pck_certificate=certificate,
        )

    # --- storing --------------------------------------------------------------------------------------------------

    def to_files(self) -> dict[str, bytes]:
        """Return the machine as files by name: ROOT_FILE is public, SECRETS_FILE is to be kept secret."""
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "created": self.created.isoformat(),
            "seed": self.entropy.seed.hex(),
            "faults": sorted(fault.name for fault in self.faults),
            "quote_faults": sorted(fault.name for fault in self.quote_faults),
            "model": self.model.to_json(),
            "pki": self.pki.to_json(),
        }
        return {ROOT_FILE: self.root_pem, SECRETS_FILE: json.dumps(document, indent=1).encode() + b"\n"}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Platform:
        """Return the machine of `to_files`; files of other names are left alone.

        Raises:
            Misuse: SIMULATOR_INVALID, a file is missing or not what `to_files` wrote.
        """
        document = _stored(files, SECRETS_FILE)
        if (document.get("format"), document.get("version")) != (_FORMAT, _VERSION):
            raise _invalid(f"{SECRETS_FILE} is of another format or version")
        try:
            platform = cls._provision(
                model=PlatformModel.from_json(document["model"]),
                pki=SimulatedPKI.from_json(document["pki"]),
                entropy=Entropy.create(bytes.fromhex(document["seed"])),
                created=datetime.fromisoformat(document["created"]),
                faults=frozenset(Fault[name] for name in document["faults"]),
            ).with_quote_faults(frozenset(Fault[name] for name in document["quote_faults"]))
        except Misuse as error:
            raise _invalid(f"{SECRETS_FILE}: {error.message}") from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _invalid(f"{SECRETS_FILE} lacks something or holds something else") from error
        if files.get(ROOT_FILE) != platform.root_pem:
            raise _invalid(f"{ROOT_FILE} is missing or not the root of this platform")
        return platform

    def revised(self, **options: Unpack[PlatformOptions]) -> Platform:
        """Return the same machine after its vendor changed its mind: status, advisories or evaluation number."""
        fixed = sorted(options.keys() - REVISABLE)
        if fixed:
            raise Misuse(Reason.SIMULATOR_INVALID, f"{', '.join(fixed)} cannot change while the machine stays the same")
        return replace(self, model=replace(self.model, **options))

    def with_quote_faults(self, faults: Faults) -> Platform:
        """Return the same machine in an attacker's hands: all its quotes have these faults, of stage QUOTE."""
        return replace(self, quote_faults=require_stage(faults, Stage.QUOTE))

    # --- endorsing ------------------------------------------------------------------------------------------------

    @property
    def root_pem(self) -> bytes:
        """The trust anchor, PEM."""
        return to_pem(self.pki.trust_anchor)

    @property
    def root_der(self) -> bytes:
        """The trust anchor, DER."""
        return self.pki.trust_anchor_der

    @property
    def pck_chain(self) -> tuple[x509.Certificate, x509.Certificate, x509.Certificate]:
        """PCK certificate, PCK CA, root."""
        return self.pck_certificate, self.pki.cas[self.model.ca].certificate, self.pki.root.certificate

    @property
    def pck_pem(self) -> bytes:
        """The PCK certificate, PEM."""
        return to_pem(self.pck_certificate)

    @property
    def ppid(self) -> bytes:
        """16 bytes that name this machine: never to be logged or shown."""
        return self.entropy.take(16, "PPID")

    def collateral(
        self, *, now: datetime, faults: Faults = NO_FAULTS, tee: TEEType = TEEType.SGX, pck_chain: bool = False
    ) -> Collateral:
        """Return what verifies this machine's quotes, as published an hour before `now` and good for 30 days.

        Args:
            now: aware.
            faults: of stage COLLATERAL.
            tee: of which kind of TEE.
            pck_chain: add the machine's PCK certificate chain, for quotes that do not carry it.

        Raises:
            Misuse: a fault that is not of stage COLLATERAL.
        """
        return self._endorser.collateral(now=now, faults=faults, tee=tee, pck_chain=pck_chain)

    def platform_collaterals(self, *, now: datetime) -> bytes:
        """Return the body of `PUT /sgx/certification/v4/platformcollateral` for this machine, JSON.

        Source: Intel PCCS, the schema of that route, API version 4.
        """
        key = {"qe_id": self.quoting_enclave.qe_id.hex(), "pce_id": self.model.pce_id.hex()}
        encrypted = {"enc_ppid": self._encrypted_ppid.hex(), "platform_manifest": ""}
        cpu_svn, pce_svn = self.model.cpu_svn.hex(), self.model.pce_svn.to_bytes(2, "little").hex()
        collaterals = self._endorser.published(now=now)
        components = {f"sgxtcbcomp{i:02}svn": svn for i, svn in enumerate(self.model.cpu_svn, 1)}
        certificate = {
            "tcb": {**components, "pcesvn": self.model.pce_svn},
            "tcbm": (cpu_svn + pce_svn).upper(),
            "cert": to_header(self.pck_certificate),
        }
        document = {
            "platforms": [{**key, "cpu_svn": cpu_svn, "pce_svn": pce_svn, **encrypted}],
            "collaterals": {
                "version": collaterals.pop("version"),
                "pck_certs": [{**key, **encrypted, "certs": [certificate]}],
                **collaterals,
            },
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @property
    def _endorser(self) -> Endorser:
        return Endorser(pki=self.pki, model=self.model, pck_key=self.pck_key, pck_certificate=self.pck_certificate)

    @property
    def _encrypted_ppid(self) -> bytes:
        # 384 bytes that only the vendor could read. Nobody decrypts them here, so they need not hold the PPID.
        return self.entropy.take(384, "encrypted PPID")

    # --- running --------------------------------------------------------------------------------------------------

    @property
    def processor(self) -> Processor:
        """The machine's processor."""
        return Processor.create(self.entropy, cpu_svn=self.model.cpu_svn)

    @property
    def quoting_enclave(self) -> QuotingEnclave:
        """The machine's quoting enclave."""
        return self._quoting_enclave(TEEType.SGX)

    @property
    def td_quoting_enclave(self) -> QuotingEnclave:
        """The machine's quoting enclave for trust domains."""
        return self._quoting_enclave(TEEType.TDX)

    def _quoting_enclave(self, tee: TEEType) -> QuotingEnclave:
        return QuotingEnclave(
            tee=tee,
            processor=self.processor,
            entropy=self.entropy,
            isv_svn=self.model.qe_svn,
            pce_svn=self.model.pce_svn,
            pce_id=self.model.pce_id,
            pck_key=self.pck_key,
            chain=self.pck_chain,
        )

    def launch(
        self, image: bytes, sigstruct: bytes, *, attributes: bytes | None = None, misc_select: int | None = None
    ) -> Enclave:
        """Launch an enclave, with every check of EINIT.

        Args:
            image: an SGXS page stream or a flat image.
            sigstruct: 1808 bytes.
            attributes: 16 bytes, as the loader asks for them; the SIGSTRUCT's where None.
            misc_select: the same of MISCSELECT.

        Raises:
            MalformedInput: image or SIGSTRUCT is not what it claims to be.
            VerificationError: SIGSTRUCT_SIGNATURE or ENCLAVE_LAUNCH.
        """
        identity = self.processor.launch(image, sigstruct, attributes=attributes, misc_select=misc_select)
        return Enclave(platform=self, identity=identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclave:
    """A launched enclave."""

    platform: Platform
    identity: EnclaveIdentity

    @property
    def target_info(self) -> bytes:
        """512 bytes: for others on this machine who want to report to this enclave."""
        return self.identity.target_info.encode()

    def report(self, target_info: bytes, report_data: bytes) -> bytes:
        """EREPORT: return the 432-byte report that `target_info` (512 bytes) asks for, over 64 bytes."""
        target = TargetInfo.parse(target_info)
        return self.platform.processor.report(self.identity, target=target, report_data=report_data).encode()

    def quote(self, report_data: bytes, *, layout: QuoteLayout | None = None, faults: Faults = NO_FAULTS) -> bytes:
        """Return a quote over 64 bytes of report data.

        Raises:
            Misuse: report data of another length, or a fault that is not of stage QUOTE.
        """
        quoting_enclave = self.platform.quoting_enclave
        report = self.report(quoting_enclave.target_info.encode(), report_data)
        return quoting_enclave.quote(report, layout=layout, faults=self.platform.quote_faults | faults)


def _extension(model: PlatformModel, entropy: Entropy) -> SGXExtension:
    return SGXExtension(
        ppid=entropy.take(16, "PPID"),
        tcb_components=tuple(model.cpu_svn),
        pce_svn=model.pce_svn,
        cpu_svn=model.cpu_svn,
        pce_id=model.pce_id,
        fmspc=model.fmspc,
        sgx_type=model.effective_sgx_type,
        platform_instance_id=entropy.take(16, "platform instance id") if model.ca == "platform" else None,
        dynamic_platform=model.dynamic_platform,
        cached_keys=model.cached_keys,
        smt_enabled=model.smt_enabled,
    )


def _stored(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    raw = files.get(name)
    if raw is None or len(raw) > MAX_FILE:
        raise _invalid(f"{name} is missing or has more than {MAX_FILE} bytes")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{name} is not JSON") from error
    if not isinstance(document, dict):
        raise _invalid(f"{name} is not a JSON object")
    return document


def _invalid(message: str) -> Misuse:
    return Misuse(
        Reason.SIMULATOR_INVALID,
        f"the simulated platform cannot be loaded: {message}",
        hint="`eaa simulator create DIR` makes a new one; its verifiers then need the new root.pem",
    )
