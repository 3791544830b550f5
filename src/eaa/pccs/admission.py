"""The one way into the store: verified whole, then stored, whoever brings it.

PUT /platformcollateral, what is fetched from an upstream, bundles and the databases of other services all pass here.
"""

from __future__ import annotations

import logging
from datetime import datetime

from eaa.pccs.records import Stored
from eaa.pccs.store import Store
from eaa.pccs.uploads import Upload
from eaa.pccs.verification import verify_upload
from eaa.verifier import TrustAnchors

_log = logging.getLogger(__name__)


def admit(
    upload: Upload, store: Store, *, trust_anchors: TrustAnchors, now: datetime, becomes_default: bool = True
) -> Stored:
    """Verify everything of an upload, and store it but for what is older than what is there.

    Args:
        upload: parsed.
        store: where it goes; what the upload leaves out, chains and CRLs, is taken from the same PKI there.
        trust_anchors: the roots below which anything is stored.
        now: the present.
        becomes_default: whether its PKI answers from now on where a request does not say whose document it wants.

    Raises:
        Refusal: 460, a signature, a chain, revocation or a date says no; 400, it cannot be read.
    """
    verify_upload(upload, store.supplement(upload.root), trust_anchors=trust_anchors, now=now)
    stored = store.apply(upload, now=now, becomes_default=becomes_default)
    if stored.kept_newer:
        _log.warning("%d documents were not stored: newer ones are there", stored.kept_newer)
    return stored
