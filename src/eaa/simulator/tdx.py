"""Trust domains in software: what the TDX module of a simulated machine would report of one, and its quotes.

There is no module behind them that measures anything: a domain says of itself what it is.

Source: Intel TDX Module Base Architecture Specification, "TDREPORT"; Intel TDX DCAP Quoting Library API.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from eaa.errors import Misuse, Reason
from eaa.evidence.quote import BodyType
from eaa.evidence.tdx import TDAttribute, TDReport, TDReport15, TDReport15Extended
from eaa.simulator.faults import NO_FAULTS, Faults
from eaa.simulator.platform import Platform
from eaa.simulator.quoting import QuoteLayout

DEFAULT_ATTRIBUTES: Final = TDAttribute.SEPT_VE_DISABLE
REPORT_DATA_SIZE: Final = 64
_XFAM: Final = bytes.fromhex("e702060000000000")
_REPORTS: Final[dict[BodyType, type[TDReport]]] = {
    BodyType.TD_REPORT_10: TDReport,
    BodyType.TD_REPORT_15: TDReport15,
    BodyType.TD_REPORT_15_EXTENDED: TDReport15Extended,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustDomain:
    """A launched trust domain."""

    platform: Platform
    name: str = "sample"
    """Decides MRTD, so that another name is another measurement."""
    attributes: int = DEFAULT_ATTRIBUTES
    """TDATTRIBUTES, u64, see TDAttribute."""
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48), bytes(48), bytes(48), bytes(48))
    mr_config_id: bytes = bytes(48)
    mr_owner: bytes = bytes(48)
    mr_owner_config: bytes = bytes(48)
    mr_service_td: bytes = bytes(48)
    """Told from TD report 1.5 on."""

    @property
    def mr_td(self) -> bytes:
        """48 bytes."""
        return hashlib.sha384(b"EAA sample trust domain\0" + self.name.encode()).digest()

    def report(self, report_data: bytes, *, kind: BodyType = BodyType.TD_REPORT_10) -> TDReport:
        """Return the report of a domain that runs on the module that it was launched on, over 64 bytes."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise Misuse(Reason.USAGE, f"report data has {REPORT_DATA_SIZE} bytes, {len(report_data)} were given")
        if kind not in _REPORTS:
            raise Misuse(Reason.USAGE, f"{kind.name} is no report of a trust domain")
        known = self._values(report_data)
        report = _REPORTS[kind]
        return report(**{name: known.get(name, bytes(length)) for name, length in report.LAYOUT})

    def _values(self, report_data: bytes) -> dict[str, Any]:
        """Return what is not zero, by the names of the reports' fields."""
        model = self.platform.model
        return {
            "tee_tcb_svn": model.tee_tcb_svn,
            "mr_seam": hashlib.sha384(b"EAA simulated TDX module" + model.tee_tcb_svn).digest(),
            "td_attributes": self.attributes.to_bytes(8, "little"),
            "xfam": _XFAM,
            "mr_td": self.mr_td,
            "mr_config_id": self.mr_config_id,
            "mr_owner": self.mr_owner,
            "mr_owner_config": self.mr_owner_config,
            **{f"rtmr{index}": value for index, value in enumerate(self.rtmrs)},
            "report_data": report_data,
            "tee_tcb_svn_2": model.tee_tcb_svn,
            "mr_service_td": self.mr_service_td,
            "td_id": hashlib.sha256(b"EAA simulated TD id" + self.mr_td).digest(),
            "init_cpu_svn": model.cpu_svn,
            "init_tee_tcb_svn": model.tee_tcb_svn,
            "init_tee_fmspc": model.fmspc + bytes(6),
        }

    def quote(
        self,
        report_data: bytes,
        *,
        kind: BodyType = BodyType.TD_REPORT_10,
        layout: QuoteLayout | None = None,
        faults: Faults = NO_FAULTS,
    ) -> bytes:
        """Return a quote over 64 bytes: of version 4 for a TD report 1.0 and 5 for later ones, or as `layout` says.

        Raises:
            Misuse: report data of another length, a layout that cannot hold the report, or a fault of another stage.
        """
        layout = layout or QuoteLayout(version=4 if kind is BodyType.TD_REPORT_10 else 5)
        report = self.report(report_data, kind=kind)
        enclave = self.platform.td_quoting_enclave
        return enclave.quote_body(report, layout=layout, faults=self.platform.quote_faults | faults)
