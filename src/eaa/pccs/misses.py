"""What would bring the document that a read misses: which fetch, under a name that all who miss the same share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from eaa.pccs import query
from eaa.pccs.filling import Filler
from eaa.pccs.places import Place
from eaa.pccs.registration import Registration
from eaa.pccs.wire import Refusal, Request, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """One document that is missing, or is to be renewed."""

    name: str
    """The same for all who miss it."""
    work: Callable[[], None]
    """Brings it. Raises Refusal."""


_Fetcher = Callable[[Filler, Mapping[str, str], Place], Fetch | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Misses:
    """Knows what to fetch from one upstream for a request."""

    filler: Filler
    crl_hosts: frozenset[str] = frozenset()

    def fetch_of(self, request: Request, place: Place | None, miss: Refusal | None) -> Fetch | None:
        """Return what would bring what a request misses, or renew what it got (`miss` is None); None: nothing would.

        Raises:
            Refusal: 410, it can never be had any more.
        """
        if place is None or place.product == "HEALTH" or request.method not in ("GET", "HEAD"):
            return None
        if miss is not None and miss.status not in (Status.NO_CACHE_DATA, Status.PLATFORM_UNKNOWN):
            return None
        parameters = request.parameters()
        if place.route == "/pckcert":
            # A certificate lives for years, and what is selected for a known platform is not the upstream's to say.
            is_unknown = miss is not None and miss.status is Status.PLATFORM_UNKNOWN
            return _platform(self.filler, parameters) if is_unknown else None
        if place.route == "/crl":
            return _crl_at(self.filler, query.crl_uri(parameters), self.crl_hosts)
        fetcher = _FETCHERS.get(place.route)
        return None if fetcher is None else fetcher(self.filler, parameters, place)


def _tcb_info(filler: Filler, parameters: Mapping[str, str], place: Place) -> Fetch:
    _refuse_ended_version(place)
    number = query.evaluation_number(parameters)
    what = {
        "tee": place.product,
        "fmspc": query.hex_parameter(parameters, "fmspc", 12),
        "update": query.update_type(parameters) if number is None else f"#{number}",
    }
    return Fetch(name="/".join(("tcb", *what.values())), work=partial(filler.tcb_info, **what))


def _identity(filler: Filler, parameters: Mapping[str, str], place: Place) -> Fetch:
    _refuse_ended_version(place)
    quoting = "QE" if place.product == "SGX" else "TD_QE"
    what = {"name": "QVE" if place.route == "/qve/identity" else quoting, "update": query.update_type(parameters)}
    return Fetch(name="/".join(("identity", *what.values())), work=partial(filler.identity, **what))


def _refuse_ended_version(place: Place) -> None:
    if place.api_version == 3:
        raise Refusal(Status.VERSION_ENDED, "version 3 of the vendor's API has ended")


def _pck_crl(filler: Filler, parameters: Mapping[str, str], _place: Place) -> Fetch:
    ca = query.certificate_authority(parameters)
    return Fetch(name=f"pckcrl/{ca}", work=partial(filler.pck_crl, ca=ca))


def _root_crl(filler: Filler, _parameters: Mapping[str, str], _place: Place) -> Fetch:
    return Fetch(name="rootcacrl", work=filler.root_crl)


def _crl_at(filler: Filler, uri: str, hosts: frozenset[str]) -> Fetch | None:
    ca = query.ca_of_crl(uri, hosts)
    if ca is not None:
        return Fetch(name=f"pckcrl/{ca}", work=partial(filler.pck_crl, ca=ca, uri=uri))
    if not query.is_known_crl(uri, hosts):
        return None
    # The root's CRL comes from where the upstream has it, whatever address a client knows it by.
    return Fetch(name="rootcacrl", work=partial(filler.root_crl, uri=uri))


def _platform(filler: Filler, parameters: Mapping[str, str]) -> Fetch:
    """Fetch the platform that asks for its certificate, as if it had reported itself."""
    platform = Registration(
        qe_id=query.qe_id(parameters),
        pce_id=query.hex_parameter(parameters, "pceid", 4),
        cpu_svn=query.hex_parameter(parameters, "cpusvn", 32),
        pce_svn=query.hex_parameter(parameters, "pcesvn", 4),
        enc_ppid=parameters.get("encrypted_ppid", "").upper(),
        platform_manifest="",
    )
    return Fetch(name=platform.fetch_name, work=partial(filler.platform, platform))


_FETCHERS: Final[Mapping[str, _Fetcher]] = {
    "/pckcrl": _pck_crl,
    "/tcb": _tcb_info,
    "/qe/identity": _identity,
    "/qve/identity": _identity,
    "/rootcacrl": _root_crl,
}
