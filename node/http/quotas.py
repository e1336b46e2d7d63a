"""What a request costs whoever makes it (PROTOCOL §13): a GET is one of its reads, anything else one of its writes.

Always: taken once a credential was recognised, before anything is read or looked up for it; a stranger has no bucket.
The operators' own key, and anybody where authentication is off, is not limited: whoever floods the node cannot shut them out.
"""

from aiohttp import web

from node.commands.decision import Principal
from node.errors import QuotaExceeded
from node.http.keys import NODE, PRINCIPAL
from node.quotas import Quota, Standing
from node.runtime import Node


def charge(request: web.Request, principal: Principal) -> None:
    """Raises QuotaExceeded where the principal has had its share of the minute."""
    if not _is_unlimited(principal):
        kind, quota = _quota_of(request)
        _require(quota.take(_bucket_of(principal)), kind, request, principal)


def charge_facts(request: web.Request, principal: Principal, facts: int) -> None:
    """Charge a batch for its facts, instead of for the one request that it was taken for at first.

    Refused, it has cost that one: eight megabytes were read to know how many facts there are.
    """
    if not _is_unlimited(principal):
        kind, quota = _quota_of(request)
        _require(quota.take_instead(_bucket_of(principal), facts), kind, request, principal)


def quota_of(principal: Principal, node: Node) -> dict[str, Standing | None]:
    """What is left to a principal of this minute, None where nothing bounds it."""
    quotas = {"reads": node.read_quota, "writes": node.write_quota}
    if _is_unlimited(principal):
        return dict.fromkeys(quotas)
    return {kind: quota.standing(_bucket_of(principal)) for kind, quota in quotas.items()}


def _quota_of(request: web.Request) -> tuple[str, Quota]:
    node = request.app[NODE]
    return ("reads", node.read_quota) if request.method in ("GET", "HEAD") else ("writes", node.write_quota)


def _require(wait_s: int, kind: str, request: web.Request, principal: Principal) -> None:
    if wait_s:
        # On record against it (PROTOCOL §16); a peer's is not set before.
        request[PRINCIPAL] = principal
        raise QuotaExceeded(f"the {kind} of this minute are used up", retry_after=wait_s)


def _is_unlimited(principal: Principal) -> bool:
    return principal.via in ("admin", "anonymous")


def _bucket_of(principal: Principal) -> tuple[str, str]:
    # A subject has one bucket, however many tokens it was issued, and a peer one; each key has its own, which an admin made for it.
    return principal.via, principal.entity if principal.key is None else principal.key.key_id
