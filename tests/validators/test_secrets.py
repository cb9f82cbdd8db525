"""Personal data and secrets, and the examples, placeholders and numbers that look like them.

Keys are put together here, so that no scanner takes this file for a leak.
"""

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validators.report import Rule
from validators.rows import Message
from validators.secrets import find_personal_data, find_secret, mask

RNG = random.Random(7)


def random_key(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "7" + "".join(RNG.choices(alphabet, k=length - 1))


def turns(text: str) -> list[Message]:
    return [Message("user", "Which?"), Message("assistant", text)]


@pytest.mark.parametrize(
    "text",
    [
        "Write to jane.doe@gmail.com, please.",
        "(j_d+x@mail.uni-bonn.de)",
        "mailto:anna@firma.co.uk",
        "Call +49 30 901820 now",
        "Tel.: +1 (415) 867-5309",
        "+442079476655",
        "call (415) 867-5309",
        "(415)867-5309",
        "Phone: 415-867-5309",
        "my cell is 1-415-867-5309.",
        "1 (415) 867-5309",
        "(+33 6 12 34 98 65)",
        "IBAN DE75 5121 0800 1245 1261 99",
        "to FI1410093000123458.",
        "card 4539 5787 6362 1486",
        "4539578763621486",
        "3714-496353-98407",
        "SSN 536-22-8145",
    ],
)
def test_personal_data_is_found(text):
    finding = find_personal_data(turns(text))
    assert finding.rule is Rule.PERSONAL_DATA and finding.detail.startswith("turn 2 holds ")


@pytest.mark.parametrize(
    "text",
    [
        "4", "-7", "⓪①",
        "jane@example.com and joe@mail.example.org",
        "user@domain.com, you@yourcompany.com",
        "git@github.com:org/repo.git",
        "postgres://user:secret@db.host.com/x",
        "icon@2x.png", "lodash@4.17.21", "@dataclass\nclass A:", "getty@tty1.service", "a @ b", "me@localhost",
        "+1 555 0100", "+1 415 555 0123", "+44 7700 900123", "+1 234 567 8900",
        "12 +34567890123", "x = 5 + 12345678901", "= +12345678901", "⓪ +49309018200", "C++11 +2", "up +12.5 %",
        "030 901820", "415-867-5309 = ?", "What is 415-867-5309?", "Phone: (415) 555-0123", "call 800-867-5309",
        "f(415) 867-53090", "2024-415-867-5309", "call 123-456-7890", "call (222) 222-2222", "867-5309",
        "DE75 5121 0800 1245 1261 98", "GB82 WEST 1234 5698 7654 32", "ISO9001200012345678",
        "4242 4242 4242 4242", "4111-1111-1111-1111", "4539 5787 6362 1487", "1539578763621486",
        "4539578763621486 + 1 = 4539578763621487", "0.4539578763621486", "34539578763621486",
        "123-45-6789", "000-12-3456", "912-34-5678", "2024-05-12", "1536-22-8145", "8.8.8.8",
    ],
)  # fmt: skip
def test_examples_and_numbers_are_no_personal_data(text):
    assert find_personal_data(turns(text)) is None


SECRETS = [
    "AKIA" + "QYLPMN5HXJ4ZRTUV",
    "ghp_" + random_key(36),
    "github_pat_" + random_key(60),
    "glpat-" + random_key(20),
    "hf_" + random_key(34),
    "npm_" + random_key(36),
    "sk-" + random_key(48),
    "sk-proj-" + random_key(60),
    "sk_live_" + random_key(24),
    "xoxb-" + random_key(12, string.digits) + "-" + random_key(24),
    "AIza" + random_key(35),
    "eyJ" + random_key(20) + ".eyJ" + random_key(40) + "." + random_key(43),
    "-----BEGIN RSA PRIVATE KEY-----\n" + random_key(64),
    "password = '" + random_key(14) + "'",
    'API_KEY: "' + random_key(20) + '"',
    '"access_token":"' + random_key(24) + '"',
    "aws_secret_access_key = " + random_key(40),
    "export AWS_SECRET_ACCESS_KEY=" + random_key(38) + "/+",
    '{"SecretAccessKey": "' + random_key(40) + '"}',
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_and_masked(secret):
    finding = find_secret(turns(f"It is {secret}."))

    assert finding.rule is Rule.SECRET
    assert not any(secret[at : at + 9] in finding.detail for at in range(4, len(secret) - 8))


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "AKIA is a prefix",
        "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
        "AWS_SECRET_ACCESS_KEY=$SECRET", "AWS_SECRET_ACCESS_KEY=" + random_key(64),
        "AWS_SECRET_ACCESS_KEY=<" + random_key(40),
        "ghp_ tokens", "ghp_" + "x" * 36,
        "sk-learn and task-force", "sk-your-api-key-goes-here-1", "sk-..." , "a disk-0123456789abcdefghijkl",
        "sk_test_" + random_key(24),
        "xoxb-your-token",
        "-----BEGIN PRIVATE KEY----- begins such a file",
        "-----BEGIN PUBLIC KEY-----\n" + random_key(64),
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ." + random_key(43),
        "password = 'hunter'", "password = 'changeme123'", "password = 'aaaaaaaa11'", "password = '${DB_PASSWORD1}'",
        "password = input('Your password: ')", "the secret: 'go slowly'", "token = 'abcdefgh1234567'",
        "api_key = 'YOUR_API_KEY_1'", "max_tokens: '2048'", "4", "⓪①",
    ],
)  # fmt: skip
def test_placeholders_are_no_secrets(text):
    assert find_secret(turns(text)) is None


def test_the_prompt_is_looked_at_too():
    assert (
        find_personal_data([Message("user", "I am jane.doe@gmail.com")]).detail
        == "turn 1 holds an e-mail address: jane..."
    )


def test_a_mask_shows_four_characters():
    assert mask("abcdefgh") == "abcd..."
    assert mask("a\nbcdefg") == "a\\nbc..."


PARTS = [
    "@",
    "a",
    ".",
    "+1",
    "4539578763621486",
    " ",
    "-",
    "AKIA",
    "eyJ",
    "sk-",
    "password",
    '="',
    "DE75",
    "0",
    "xoxb-",
]


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(PARTS)).map("".join))
def test_no_text_makes_a_rule_raise(text):
    find_personal_data(turns(text))
    find_secret(turns(text))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    ["a", "@", "a@", "a@a.", "1", "1 ", "+1", "+1 ", "(1)", "A1", "AB12 ", "sk-", "eyJ", "eyJ-", "eyJa.",
     "eyJaaaaaaaa.", "password", 'password="', "xoxb-1-", "-----BEGIN PRIVATE KEY-----", "1-", "4539 5787 6362 1487 ",
     "x://a:b@c.de "],
)  # fmt: skip
def test_a_long_text_takes_linear_time(unit):
    text = unit * (2**20 // len(unit))
    find_personal_data(turns(text))
    find_secret(turns(text))
