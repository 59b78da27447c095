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
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{status} {title}</title>'
    '<meta name="viewport" content="width=device-width">'
    "<style>body{{font:18px/1.5 system-ui,sans-serif;max-width:36em;margin:20vh auto;padding:0 1em;color:#222;background:#fff}}"
    "small{{color:#555}}@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#181818}}small{{color:#aaa}}}}</style>"
    "<h1>{title}</h1><p>"
)
_JSON = '{{"type":"about:blank","title":"{title}","status":{status},"detail":"'


def page(status: int) -> str:
    """The body, either kind by the request's wish (`txn.html`), with the service and the request's id."""
    title, text = TEXTS[status]
    begin = _either(_HTML.format(status=status, title=title), _JSON.format(status=status, title=title))
    middle = _either(f" {text}.</p><p><small>Request ", f' {text}","instance":"urn:uuid:')
    end = _either("</small></p></html>", '"}')
    return f"{begin}{_SERVICE}{middle}%ID{end}\n"


def _either(html: str, json: str) -> str:
    return f"%[var(txn.html,0),iif('{html}','{json}')]"
