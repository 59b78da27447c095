"""What the gateway itself answers: problem+json (RFC 9457), or HTML for a browser. Pure.

Texts are HAProxy format strings, read at the time of the answer: `be_name` begins with APP:SERVICE. Neither kind may contain a single
quote.
"""

from __future__ import annotations

TEXTS = {
    502: ("Bad Gateway", "gave no valid answer"),
    503: ("Service Unavailable", "has no instance that can take the request now"),
    504: ("Gateway Timeout", "did not answer in time"),
}
"""Status → title, and what is said of the service."""
IS_OWN = "{ res.hdr(x-gateway-page) -m found }"
"""A condition: the answer is one of these pages."""
WISH = "  http-request set-var(txn.html) int(1) if { req.hdr(accept) -m sub text/html }"
"""To be known before a page is made."""
_SERVICE = "%[be_name,field(1,:)]/%[be_name,field(2,:)]"
_HTML = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width">'
    "<style>body{font:18px/1.5 system-ui,sans-serif;max-width:36em;margin:20vh auto;padding:0 1em;color:#222;background:#fff}"
    "small{color:#555}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}small{color:#aaa}}</style>"
    "<title>Error "
)
_JSON = '{"type":"about:blank","status":'


def rule(status: int, shown: int) -> str:
    """What the proxy says where it would say `status`: the page of `shown`."""
    again = " hdr Retry-After 1" * (shown == 503)
    return f"  http-error status {status} content-type application/problem+json lf-file {shown}.page hdr X-Gateway-Page 1{again}"


def page(status: int) -> str:
    """The body, either kind by the request's wish (`txn.html`), with the service and the request's id."""
    title, text = TEXTS[status]
    parts = [
        _either(_HTML, _JSON),
        str(status),
        _either("</title><h1>", ',"title":"'),
        title,
        _either("</h1><p>", '","detail":"'),
        f"{_SERVICE} ",
        text,
        _either(".</p><p><small>Request ", '","instance":"urn:uuid:'),
        "%ID",
        _either("</small></p></html>", '"}'),
    ]
    return "".join(parts) + "\n"


def _either(html: str, json: str) -> str:
    return f"%[var(txn.html,0),iif('{html}','{json}')]"
