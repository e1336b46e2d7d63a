"""A hook for schemathesis: each request it sends bears a peer token of its own, for a token is good once.

Who speaks to whom with which key is in the environment of its process.
"""

import os
import time
import uuid

import schemathesis

from node.keys import load_signer
from tests.organisations import jwt

SIGNER = load_signer(os.environ["PEER_KEY_FILE"], None)


@schemathesis.hook
def before_call(_context: object, case: schemathesis.Case, _kwargs: object) -> None:
    now_ms = time.time_ns() // 1_000_000
    claims = {
        "iss": os.environ["PEER_ISSUER"],
        "sub": os.environ["PEER_AUDIENCE"],
        "iat": now_ms,
        "exp": now_ms + 300_000,
        "nonce": str(uuid.uuid4()),
        "scopes": ["public", "company"],
    }
    case.headers = {**(case.headers or {}), "Authorization": f"Bearer {jwt(SIGNER, claims)}"}
