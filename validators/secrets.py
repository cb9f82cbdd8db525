"""Rules PERSONAL_DATA and SECRET, by pattern; what is found is never quoted in full.

Personal data: e-mail addresses, telephone numbers in international or US form, IBANs (length and checksum),
payment cards (prefix, grouping and Luhn) and US social security numbers. IP addresses are left out:
they look like version numbers and seldom belong to a person. Names and postal addresses need a model.

Secrets: keys of well-known services by their prefixes, private keys with their material, JSON web
tokens, AWS secret keys, and quoted values of high entropy that are assigned to a name such as `password`.

Addresses, numbers and keys that are reserved for examples, and placeholders, pass. Each pattern runs
only where a cheap look finds its mark, and is bounded, so that no text makes it slow.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from validators.quoting import printable
from validators.report import Finding, Rule
from validators.rows import Message

SHOWN_CHARS = 4
MIN_ENTROPY = 3.0
"""Bits a character; placeholders and words in a row lie below, random keys above."""

_AT = re.compile(r"(?<=[A-Za-z0-9_%+-])@(?=[A-Za-z0-9])")
_LOCAL = re.compile(r"[A-Za-z0-9._%+-]{1,64}\Z")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.){1,5}([A-Za-z]{2,18})(?![A-Za-z0-9-])")
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example\.[a-z.]+|(?:your-?)?(?:domain|company|email|site|website|organization)\.(?:com|org|net)|test\.com)$"
)
_NO_HOST = frozenset(
    [
        "example",
        "test",
        "invalid",
        "internal",
        "lan",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "css",
        "js",
        "py",
        "ts",
        "md",
        "txt",
        "service",
    ]
)
_NO_PERSON = frozenset(("git", "noreply", "no-reply", "user", "username", "you", "your.name", "name", "email"))

_DIGITS = re.compile(r"[0-9](?:[ .()-]{0,2}[0-9]){8}")
_PHONE = re.compile(r"(?<![\w+.])\+[1-9](?:[ .-]?[0-9]|[ .-]?\([0-9]{1,4}\)){6,13}(?![0-9])")
_EXAMPLE_PHONE = re.compile(
    r"\A1(?:[0-9]{3})?5550?1[0-9]{2}\Z|\A44(?:7700900|2079460|1632960)|1234567|0000000|(.)\1{6}"
)
_US_PHONE = re.compile(
    r"(?<![\w+.)/*^-])(?:(?:\+?1[ .-]?)?\(([2-9][0-9]{2})\)[ -]?|(?:1-)?([2-9][0-9]{2})-)"
    r"([2-9][0-9]{2})-[0-9]{4}(?![\w-])"
)
_PHONE_NEAR = re.compile(r"\b(?:call|phone|tel|mobile|cell|fax|dial|contact|reach|text me|sms|whatsapp)", re.IGNORECASE)
_PHONE_NEAR_CHARS = 40
_NO_PERSONS_AREAS = frozenset(("800", "833", "844", "855", "866", "877", "888", "900"))
_SSN = re.compile(r"(?<![0-9-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9-])")
_EXAMPLE_SSNS = frozenset(("078-05-1120", "219-09-9999", "123-45-6789"))
_CARD = re.compile(
    r"(?<![0-9.,+*/=^-])(?<![0-9] )"
    r"(?:[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}|3[47][0-9]{2}([ -]?)[0-9]{6}\2[0-9]{5})"
    r"(?![0-9.,+*/=^-][0-9]|[0-9])"
)
_ISSUER = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|6011|65")
_OPERATOR_NEAR = frozenset("+*/=^×÷<>-")
_EXAMPLE_CARDS = frozenset(
    [
        "4242424242424242",
        "4111111111111111",
        "4012888888881881",
        "4000056655665556",
        "5555555555554444",
        "5105105105105100",
        "2223003122003222",
        "378282246310005",
        "371449635398431",
        "6011111111111117",
        "6011000990139424",
    ]
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2})[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI NL FO GL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
        22: "BG BH DE GB GE IE ME RS", 23: "AE GI IL IQ", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "PT",
        26: "IS TR", 27: "FR GR IT MC SM", 28: "AL AZ BY CY DO GT HU LB PL", 29: "BR EG PS QA UA", 31: "MT SC",
    }.items()
    for country in countries.split()
}  # fmt: skip
_EXAMPLE_IBANS = frozenset(
    [
        "GB82WEST12345698765432",
        "GB29NWBK60161331926819",
        "GB33BUKB20201555555555",
        "DE89370400440532013000",
        "FR1420041010050500013M02606",
        "FR7630006000011234567890189",
        "NL91ABNA0417164300",
        "BE68539007547034",
        "ES9121000418450200051332",
        "CH9300762011623852957",
        "NO9386011117947",
        "AT611904300234573201",
        "IT60X0542811101000000123456",
        "PL61109010140000071219812874",
    ]
)

_KEYS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (mark, re.compile(pattern))
    for mark, pattern in (
        ("AKIA", r"(?<![A-Za-z0-9])AKIA[A-Z2-7]{16}(?![A-Za-z0-9])"),
        ("ASIA", r"(?<![A-Za-z0-9])ASIA[A-Z2-7]{16}(?![A-Za-z0-9])"),
        ("AIza", r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9])"),
        ("ghp_", r"\bghp_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("gho_", r"\bgho_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("ghs_", r"\bghs_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("ghu_", r"\bghu_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("ghr_", r"\bghr_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{50,100}"),
        ("glpat-", r"\bglpat-[A-Za-z0-9_-]{20,40}"),
        ("npm_", r"\bnpm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
        ("hf_", r"\bhf_[A-Za-z0-9]{30,40}(?![A-Za-z0-9])"),
        ("sk-", r"(?<![A-Za-z0-9-])sk-(?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{20,200}"),
        ("_live_", r"\b[sr]k_live_[A-Za-z0-9]{16,100}"),
        ("xox", r"\bxox[baprs]-[A-Za-z-]{0,20}[0-9][A-Za-z0-9-]{9,200}"),
        ("eyJ", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{16,1000}"),
        ("PRIVATE KEY-----", r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY-----\s{1,4}[A-Za-z0-9+/=]{32,80}"),
    )
)
_NAMES = ("assword", "asswd", "ASSWORD", "ecret", "ECRET", "oken", "OKEN", "pi_key", "PI_KEY", "piKey", "ccountKey")
_ASSIGNED = re.compile(
    r"(?:password|passwd|secret(?:[_-]?key)?|api[_-]?key|account[_-]?key|(?:access|auth|api|bearer|refresh)[_-]?token)"
    r"[\"']?[ \t]{0,3}[:=]{1,2}[ \t]{0,3}([\"'])([^\"'\s]{8,120})\1",
    re.IGNORECASE,
)
_AWS_SECRET = re.compile(
    r"secret_?access_?key[\"']?[ \t]{0,3}[:=][ \t]{0,3}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"example|your|placeholder|change_?me|redacted|dummy|fake|sample|demo|xxxx|[<>{}$*]|\.\.\.|"
    r"1234567|abcdef|eyJzdWIiOiIxMjM0NTY3ODkwI",
    re.IGNORECASE,
)
_SECRET_CHARS = 80
"""A placeholder is looked for in so many characters of a key."""


def find_personal_data(messages: Sequence[Message]) -> Finding | None:
    """The first turn with personal data."""
    for turn, message in enumerate(messages, 1):
        for kind, seen in _personal_data(message.content):
            return Finding(Rule.PERSONAL_DATA, f"turn {turn} holds {kind}: {mask(seen)}")
    return None


def find_secret(messages: Sequence[Message]) -> Finding | None:
    """The first turn with a key, a token or a password."""
    for turn, message in enumerate(messages, 1):
        for kind, seen in _secrets(message.content):
            return Finding(Rule.SECRET, f"turn {turn} holds {kind}: {mask(seen)}")
    return None


def mask(value: str) -> str:
    """The first characters, the others as dots."""
    return printable(value[:SHOWN_CHARS]) + "..."


def _personal_data(text: str) -> Iterator[tuple[str, str]]:
    if "@" in text:
        yield from (("an e-mail address", seen) for seen in _emails(text))
    if not _DIGITS.search(text):
        return
    if "+" in text:
        yield from (("a telephone number", seen) for seen in _phones(text))
    if "-" in text:
        yield from (("a telephone number", seen) for seen in _us_phones(text))
    yield from (("a social security number", seen) for seen in _SSN.findall(text) if seen not in _EXAMPLE_SSNS)
    yield from (("a payment card number", seen) for seen in _cards(text))
    yield from (("an IBAN", seen) for seen in _ibans(text))


def _emails(text: str) -> Iterator[str]:
    for at in _AT.finditer(text):
        local = _LOCAL.search(text[max(0, at.start() - 64) : at.start()])
        domain = _DOMAIN.match(text, at.end())
        if not local or not domain or local[0].lower() in _NO_PERSON or _is_no_host(domain[1].lower()):
            continue
        before = text[max(0, at.start() - 200) : at.start()].split()
        if _EXAMPLE_DOMAIN.search(domain[0].lower()) or "://" in (before or [""])[-1]:
            continue
        yield f"{local[0]}@{domain[0]}"


def _is_no_host(name: str) -> bool:
    """Of the last part of a domain: whether it is reserved, of a local network, or a file's."""
    return name in _NO_HOST or name.startswith("local")


def _phones(text: str) -> Iterator[str]:
    for match in _PHONE.finditer(text):
        digits = re.sub(r"[^0-9]", "", match[0])
        if not 8 <= len(digits) <= 15 or _EXAMPLE_PHONE.search(digits):
            continue
        before = text[max(0, match.start() - 2) : match.start()].rstrip(" ")[-1:]
        if not (before.isnumeric() or before in _OPERATOR_NEAR or before in (")", "]")):
            yield match[0]


def _us_phones(text: str) -> Iterator[str]:
    """Without the plus: the area in parentheses, or near a word such as "call", since it could be a subtraction."""
    for match in _US_PHONE.finditer(text):
        area = match[1] or match[2]
        if area in _NO_PERSONS_AREAS or match[3] == "555" or len(set(match[0])) < 6:
            continue
        near = text[max(0, match.start() - _PHONE_NEAR_CHARS) : match.start()]
        if match[1] or _PHONE_NEAR.search(near):
            yield match[0]


def _cards(text: str) -> Iterator[str]:
    for match in _CARD.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        if not _ISSUER.match(digits) or digits in _EXAMPLE_CARDS or not _passes_luhn(digits):
            continue
        before = text[max(0, match.start() - 2) : match.start()].strip()
        after = text[match.end() : match.end() + 2].strip()
        if before[-1:] in _OPERATOR_NEAR or after[:1] in _OPERATOR_NEAR or len(set(digits)) < 4:
            continue
        yield match[0]


def _ibans(text: str) -> Iterator[str]:
    for match in _IBAN.finditer(text):
        compact = match[0].replace(" ", "")
        length = _IBAN_LENGTHS.get(match[1])
        if length is None or len(compact) < length or compact[:length] in _EXAMPLE_IBANS:
            continue
        if _passes_mod_97(compact[:length]):
            yield compact[:length]


def _passes_luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _passes_mod_97(iban: str) -> bool:
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def _secrets(text: str) -> Iterator[tuple[str, str]]:
    for mark, pattern in _KEYS:
        if mark in text:
            found = (match[0] for match in pattern.finditer(text))
            yield from (("a key or token", key) for key in found if _is_real(key))
    if any(name in text for name in _NAMES):
        assigned = (match[2] for match in _ASSIGNED.finditer(text))
        yield from (("a password or token", value) for value in assigned if _is_random(value))
        unquoted = (match[1] for match in _AWS_SECRET.finditer(text))
        yield from (("a key or token", value) for value in unquoted if _is_random(value))


def _is_real(key: str) -> bool:
    return not _PLACEHOLDER.search(key[:_SECRET_CHARS]) and _entropy(key) >= MIN_ENTROPY


def _is_random(value: str) -> bool:
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and _is_real(value)


def _entropy(text: str) -> float:
    """Bits a character."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
