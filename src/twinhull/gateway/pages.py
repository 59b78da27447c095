"""What the gateway itself answers: problem+json (RFC 9457), or HTML for a browser. Pure.

Texts are HAProxy format strings, read at the time of the answer: `be_name` is APP:SERVICE:DIGEST. Neither kind may contain a single quote.
"""

from __future__ import annotations

TEXTS = {
    502: ("Bad Gateway", "gave no valid answer"),
    503: ("Service Unavailable", "has no instance that can take the request now"),
    504: ("Gateway Timeout", "did not answer in time"),
}
"""Status → title, and what is said of the service."""
_SERVICE = "%[be_name,field(1,:)]/%[be_name,field(2,:)]"
_HTML = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width">'
    "<style>body{font:18px/1.5 system-ui,sans-serif;max-width:36em;margin:20vh auto;padding:0 1em;color:#222;background:#fff}"
    "small{color:#555}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}small{color:#aaa}}</style>"
    "<title>Error "
)
_JSON = '{"type":"about:blank","status":'


def page(status: int) -> str:
    """The body, either kind by the request's wish (`txn.html`), with the service and the request's id.

    Whatever failed while a request was held: its service is not available.
    """
    title, text = TEXTS[status]
    parts = [
        _either(_HTML, _JSON),
        _unless_held(str(status), "503"),
        _either("</title><h1>", ',"title":"'),
        _unless_held(title, TEXTS[503][0]),
        _either("</h1><p>", '","detail":"'),
        f"{_SERVICE} ",
        _unless_held(text, TEXTS[503][1]),
        _either(".</p><p><small>Request ", '","instance":"urn:uuid:'),
        "%ID",
        _either("</small></p></html>", '"}'),
    ]
    return "".join(parts) + "\n"


def _either(html: str, json: str) -> str:
    return f"%[var(txn.html,0),iif('{html}','{json}')]"


def _unless_held(text: str, held: str) -> str:
    """The second if the answer was to come from the activator."""
    return text if text == held else f"%[srv_name,strcmp(proc.activator),bool,iif('{text}','{held}')]"
