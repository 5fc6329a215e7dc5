"""Takes passwords out of whatever is shown or logged: of URLs, of `password=…`, and of the settings in use."""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

MASK = "***"
SHORTEST_SECRET = 6
"""Characters. Shorter ones are masked only where a URL or a name gives them away: as words they are too common."""

_USERINFO = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://[^\s/@:'"]*:)[^\s'"]*@""")
_NAMED = re.compile(
    r"""((?<![A-Za-z])[A-Za-z_]*(?:passwords?|passwd|secret|basic[-_]auth)\\?['"]?\s*[=:]\s*\\?['"]?)[^\s'"&;,}\\]+""",
    re.IGNORECASE,
)
_URL_SECRET = re.compile(r"://[^\s/@:]*:([^\s]*)@")


def secrets_of(values: Iterable[str]) -> frozenset[str]:
    """The passwords in URLs, as they are written and as they are meant, that are long enough to be looked for."""
    found = {match for value in values for match in _URL_SECRET.findall(value)}
    found |= {unquote(each) for each in found}
    return frozenset(each for each in found if len(each) >= SHORTEST_SECRET)


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without passwords: those of URLs, those that a name announces, and `secrets` wherever they stand."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _USERINFO.sub(rf"\1{MASK}@", text)
    return _NAMED.sub(rf"\1{MASK}", text)


def masked_value(value: object, secrets: Iterable[str] = ()) -> object:
    """The same for what a log line may hold: its parts, and how it prints where it is neither text nor a number."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return masked(value, secrets)
    if isinstance(value, Mapping):
        return {masked(str(key), secrets): masked_value(each, secrets) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked_value(each, secrets) for each in value]
    return masked(repr(value), secrets)
