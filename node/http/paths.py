"""URIs in paths: the one way in which a route reads a name that stands in its path.

Always: a name is percent-decoded once. Clients that write it as it is (`/v1/entities/stigmem://x/y/history`) and those that escape
all of it (`stigmem%3A%2F%2Fx%2Fy`) mean the same one.

Does not bring it into normal form or say whether it is one (see node/uris.py).
"""

from urllib.parse import unquote_to_bytes

from aiohttp import web

from node.errors import InvalidUri


def uri_in_path(request: web.Request, variable: str) -> str:
    """The name that stands for `{variable}` in the route's path; whatever a URI may hold, so the route takes `{variable:.+}`.

    `%2F` in a name that is written as it is, with its `://`, is a part of it: whoever escapes slashes escapes those two as well.
    Raises InvalidUri where its escapes are of no UTF-8: they would stay as they are, and be taken for the name of another.
    """
    try:
        unquote_to_bytes(request.rel_url.raw_path).decode()
    except UnicodeDecodeError as error:
        raise InvalidUri(f"{variable}: not UTF-8") from error
    # Not `match_info`: there `%2F` and `/` have become one. Here only those and `%25` are still as they were sent.
    matched = request.match_info.route.resource.get_info()["pattern"].fullmatch(request.rel_url.path_safe)
    name = matched[variable]
    if "://" not in name:
        name = name.replace("%2F", "/")
    return name.replace("%25", "%")
