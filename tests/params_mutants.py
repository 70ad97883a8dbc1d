"""Damaged params files for the fuzz test: each a function of its number alone."""

import random
from pathlib import Path

from netpress.params import profiles

FOLDER = Path(__file__).parent.parent / "profiles"
#: Every profile as params.yaml, thrice, and the overlays alone, in which most keys are missing.
TEXTS = 3 * [profiles.render(FOLDER, name) for name in profiles.names(FOLDER)]
TEXTS += [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))]

NUMBERS = "0 -1 1 1.0 0.5 1e-3 1e3 1e400 1e-400 010 0o10 0x1F 1_000 1:30 -0 5.0e-4 +.5 1. 2020-01-01 .nan .inf -.INF"
WORDS = (
    "~ null yes no On OFF true FALSE y = << train/resnet18_strong prune/main prune/main/round_1 train/x kd none plain"
)
SIGNS = "? | >- % @ ` *a &a &a\t1 !!python/object:os.system\tls !!int\t3 !x\ty 'a a'b a:b"
ESCAPES = r'"\0" "\n" "\t" "\uD800" "\UFFFFFFFF" "\x" "a'
NASTY = [
    *(word.replace("\t", " ") for word in f"{NUMBERS} {WORDS} {SIGNS} {ESCAPES}".split(" ")),
    *("9" * 17, "9" * 400, "-" + "9" * 5000, "1e" + "9" * 400, "0." + "3" * 3000, "x" * 5000, "", "''", '" "', "a: b"),
    *("[]", "{}", "[1, 2]", "{a: 1}", "[" * 30 + "]" * 30, "[" * 5000, "{a: " * 25 + "1" + "}" * 25),
    *("- 1", "# c", "a #b", "../..", "/", "\t1", "1\t", "a\tb"),
    *("é", "日本", "🙂", "\u202e", "\u2028", "\ufeff", "\x00", "\x07", "\x85", "\x1b[31m"),
]
LINES = [
    *("---", "...", "--- a", "%YAML 1.1", "%TAG ! tag:x,2000:", "\t", "\ta: 1", "<<: {a: 1}", "? [1]", "1: 2", "~: 1"),
    *(": 1", "true: 1", "'': 1", '"a\\tb": 1', "- 1", "a", "a: 1", "a.b: 1", "seeds: [0]", "train: {}", "  x: {}"),
]


def bite(rng, text):
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.randrange(1, 40) :]


def cut(rng, text):
    return text[: rng.randrange(len(text) + 1)]


def splice(rng, text):
    other = rng.choice(TEXTS).splitlines(keepends=True)
    lines = text.splitlines(keepends=True)
    return "".join(lines[: rng.randrange(len(lines) + 1)] + other[rng.randrange(len(other)) :])


def on_lines(change):
    """Make a mutation of a text from one of its list of lines and of the index of one that is not a comment."""

    def mutate(rng, text):
        lines = text.split("\n")
        places = [i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")] or [0]
        change(rng, lines, rng.choice(places), rng.choice(places))
        return "\n".join(lines)

    return mutate


def delete(rng, lines, at, _):
    del lines[at]


def double(rng, lines, at, to):
    lines.insert(rng.choice([at, to]), lines[at])


def swap(rng, lines, at, to):
    lines[at], lines[to] = lines[to], lines[at]


def indent(rng, lines, at, _):
    lines[at] = rng.choice([" ", "  ", "\t", "        ", ""]) + (
        lines[at] if rng.random() < 0.5 else lines[at].lstrip()
    )


def insert(rng, lines, at, _):
    lines.insert(at, rng.choice(LINES))


def put(rng, lines, at, _):
    key, colon, _value = lines[at].partition(": ")
    lines[at] = key.rstrip(":") + ": " + rng.choice(NASTY) if colon or key.endswith(":") else rng.choice(NASTY)


def put_inside(rng, lines, at, _):
    """Replace one word of a line, which may stand in braces."""
    words = lines[at].split(" ")
    words[rng.randrange(len(words))] = rng.choice(NASTY)
    lines[at] = " ".join(words)


def swap_keys(rng, lines, at, to):
    one, other = lines[at].partition(":"), lines[to].partition(":")
    lines[at], lines[to] = other[0] + "".join(one[1:]), one[0] + "".join(other[1:])


def misspell(rng, lines, at, _):
    key, colon, value = lines[at].partition(":")
    where = rng.randrange(len(key) + 1)
    lines[at] = key[:where] + rng.choice(["", "x", "É", " ", "-", "A", '"']) + key[where + 1 :] + colon + value


def small_change(rng, lines, at, _):
    """Change a digit of a value, which many files survive."""
    key, colon, value = lines[at].partition(": ")
    digits = [i for i, c in enumerate(value) if c.isdigit()]
    if digits:
        where = rng.choice(digits)
        value = value[:where] + rng.choice("123456789") + value[where + 1 :]
    lines[at] = key + colon + value


MUTATIONS = [bite, cut, splice]
MUTATIONS += map(on_lines, (delete, double, swap, indent, insert, put, put_inside, swap_keys, misspell))
MUTATIONS += map(on_lines, (put, put_inside, small_change, small_change, small_change, small_change))


def mutant(seed):
    """Return the bytes of mutant `seed`: one to three changes of a profile, and sometimes some of its bytes."""
    rng = random.Random(seed)
    text = rng.choice(TEXTS)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        text = rng.choice(MUTATIONS)(rng, text)
    if rng.random() < 0.1:
        text = text.replace("\n", "\r\n")
    content = bytearray(text.encode("utf-8"))
    if rng.random() < 0.15:
        for _ in range(rng.choice([1, 1, 4]) if content else 0):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)
