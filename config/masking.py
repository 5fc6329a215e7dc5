"""Masks passwords in what is shown or logged: in URLs, after `password=`, and those of the settings in use."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

MASK = "***"
SHORTEST_SECRET = 6
"""Characters. A shorter secret is masked only in a URL or after a name: elsewhere it may be a common word."""

_USERINFO = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://[^\s/@:'"]*:)[^\s'"]*@""")
_NAMED = re.compile(
    r"""((?<![A-Za-z])[A-Za-z_]*(?:passwords?|passwd|secret|basic[-_]auth)\\?['"]?\s*[=:]\s*\\?['"]?)[^\s'"&;,}\\]+""",
    re.IGNORECASE,
)
_API_KEY = re.compile(r"(?<![A-Za-z0-9_-])rb_[A-Za-z0-9_-]{43,}")
"""A key of the HTTP door, wherever it stands."""
_URL_SECRET = re.compile(r"://[^\s/@:]*:([^\s]*)@")


def secrets_of(values: Iterable[str]) -> frozenset[str]:
    """The passwords in these URLs, percent-encoded and decoded, of at least `SHORTEST_SECRET` characters."""
    found = {match for value in values for match in _URL_SECRET.findall(value)}
    found |= {unquote(each) for each in found}
    return frozenset(each for each in found if len(each) >= SHORTEST_SECRET)


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with passwords masked: in URLs, after a name like `password=`; API keys; `secrets` wherever they occur."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _API_KEY.sub(MASK, _USERINFO.sub(rf"\1{MASK}@", text))
    return _NAMED.sub(rf"\1{MASK}", text)


def masked_value(value: object, secrets: Iterable[str] = ()) -> object:
    """`masked` for any value of a log line: containers item by item, other objects as their `repr`."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return masked(value, secrets)
    if isinstance(value, Mapping):
        return {masked(str(key), secrets): masked_value(each, secrets) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked_value(each, secrets) for each in value]
    return masked(repr(value), secrets)
