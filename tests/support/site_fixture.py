"""The `site` fixture: one software TEE for each worker of a test run."""

from __future__ import annotations

import pytest

from support.system import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return this worker's software TEE with images, collateral and reference values."""
    return Site.create(tmp_path_factory.mktemp("site"))
