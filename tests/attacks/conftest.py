"""The genuine node that attacks are made on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eaa.identity import Identity
from support.attack_world import World
from support.peers import Leaf, attester_of
from support.system import Site


@pytest.fixture(scope="module")
def genuine(site: Site) -> Iterator[World]:
    with site.workload() as workload:
        at = workload.address()
        with site.relay(at) as relay:
            yield World(
                site=site,
                workload=at,
                relay=relay.address(),
                relay_tee=attester_of(site, "relay"),
                workload_tee=attester_of(site, "workload"),
                key=Leaf.create(),
                leaked=Identity(attester_of(site, "workload")),
                own_relay=Identity(attester_of(site, "relay")),
            )


@pytest.fixture
def world(genuine: World) -> Iterator[World]:
    genuine.loot.clear()
    yield genuine
    for wire in genuine.dialled:
        wire.close()
    genuine.dialled.clear()
