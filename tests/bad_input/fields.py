"""What .json and .txt of a sample can hold."""

import json
from typing import Any

from tests.bad_input.case import Case
from tests.bad_input.pools import BAD, between, case, sample
from tests.stages.pool.pools import pair, uid_of

_FAMILY = "json"
_UID = uid_of(BAD)


def body(**fields: Any) -> bytes:
    """A sample's .json with some fields otherwise; None leaves one out."""
    whole = {"uid": _UID, "caption": "two red digits", "key": pair(BAD).key, **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


_ACCEPTED: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("uid of 31 digits", body(uid=_UID[1:]), ("uid",)),
    ("uid of 1 digit", body(uid="7"), ("uid",)),
    ("upper-case uid", body(uid=_UID.upper()), ("uid",)),
    ("UTF-8 with a byte order mark", b"\xef\xbb\xbf" + body(), ()),
    ("UTF-16", body().decode().encode("utf-16"), ()),
    ("a field twice, the last one counts", body()[:-1] + b', "key": "other"}', ()),
    ("1 MB of other fields", body(exif="x" * (1 << 20)), ()),
    ("NaN and infinity in other fields", body()[:-1] + b', "score": NaN, "other": -Infinity}', ()),
    ("caption in .json is no text, and .txt is there", body(caption=17), ()),
]
_QUARANTINED: list[tuple[str, bytes, str]] = [
    ("not UTF-8", body(caption="x").replace(b'"x"', b'"\xff\xfe\xfa"'), "bad_json"),
    ("empty file", b"", "bad_json"),
    ("cut in the middle", body()[:-9], "bad_json"),
    ("NUL bytes", bytes(200), "bad_json"),
    ("NUL bytes behind the object", body() + b"\0\0\0", "bad_json"),
    ("two objects", body() + body(), "bad_json"),
    ("array instead of object", b"[" + body() + b"]", "bad_json"),
    ("text instead of object", b'"' + _UID.encode() + b'"', "bad_json"),
    ("null", b"null", "bad_json"),
    ("depth bomb: 200,000 arrays", b"[" * 200_000, "bad_json"),
    (
        "depth bomb: 100,000 closed arrays in a field",
        body()[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "bad_json",
    ),
    ("a number of 100,000 digits", body()[:-1] + b', "n": ' + b"9" * 100_000 + b"}", "bad_json"),
    ("no uid", body(uid=None), "no_uid"),
    ("uid is null", body(uid=None)[:-1] + b', "uid": null}', "no_uid"),
    ("uid is empty", body(uid=""), "no_uid"),
    ("uid as number", body(uid=int(_UID, 16)), "bad_uid"),
    ("uid as list", body(uid=[_UID]), "bad_uid"),
    ("uid of 33 digits", body(uid=_UID + "0"), "bad_uid"),
    ("uid with dashes", body(uid=f"{_UID[:8]}-{_UID[8:]}"), "bad_uid"),
    ("uid not hexadecimal", body(uid="g" * 32), "bad_uid"),
    ("uid with a line end", body(uid=_UID + "\n"), "bad_uid"),
    ("uid with a space", body(uid=" " + _UID), "bad_uid"),
    ("uid in full-width digits", body(uid="\uff11" * 32), "bad_uid"),
    ("uid with half a surrogate pair", body(uid="\ud800"), "bad_uid"),
    ("uid that an earlier sample has", body(uid=uid_of(1)), "duplicate_uid"),
    ("uid that differs from an earlier one in case alone", body(uid=uid_of(1).upper()), "duplicate_uid"),
]

_NO_TXT: list[tuple[str, bytes, str]] = [
    ("none at all", body(caption=None), "no_caption"),
    ("null in .json", body(caption=None)[:-1] + b', "caption": null}', "no_caption"),
    ("number in .json", body(caption=17), "bad_caption"),
    ("list in .json", body(caption=["a", "b"]), "bad_caption"),
    ("half a surrogate pair in .json", body(caption="a \ud83d b"), "bad_caption"),
]
_TXT: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("spaces and line ends alone", b" \n\t\r\n "),
    ("NUL bytes", b"a\0b\0"),
    ("1 MB", b"word " * (1 << 18)),
    ("1 MB without a space", b"x" * (1 << 20)),
    ("right-to-left marks and emoji", "\u202e\U0001f9d1\u200d\U0001f680 \u0644".encode()),
    ("markup of the log", b"[red]bold[/red] \x1b[31m"),
]

CASES: list[Case] = [
    *(
        case(name, _FAMILY, "accepted", *changed, build=lambda d=data: between(sample(json=d)))
        for name, data, changed in _ACCEPTED
    ),
    *(
        case(name, _FAMILY, "quarantined", reason, build=lambda d=data: between(sample(json=d)))
        for name, data, reason in _QUARANTINED
    ),
    *(
        case(name, "caption", "quarantined", reason, build=lambda d=data: between(sample(json=d, without="txt")))
        for name, data, reason in _NO_TXT
    ),
    *(case(name, "caption", "accepted", build=lambda d=data: between(sample(txt=d))) for name, data in _TXT),
    case("in .json alone", "caption", "accepted", build=lambda: between(sample(without="txt"))),
    case(
        "not UTF-8",
        "caption",
        "quarantined",
        "bad_caption",
        build=lambda: between(sample(txt="caf\xe9".encode("latin-1"))),
    ),
    case("UTF-16", "caption", "quarantined", "bad_caption", build=lambda: between(sample(txt="café".encode("utf-16")))),
]
