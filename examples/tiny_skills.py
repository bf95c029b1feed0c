"""The skills of the tiny zoo: each draws a problem at random and knows its one right answer."""

import random
from collections.abc import Callable, Mapping
from string import ascii_lowercase
from typing import NamedTuple
from zlib import crc32

ANIMALS = ["bee", "cat", "cow", "dog", "fox", "hen", "owl", "pig", "rat"]


class Problem(NamedTuple):
    """A prompt and its one right answer. Text to be modelled as a whole has an empty prompt."""

    prompt: str
    answer: str


def _letters(draw: random.Random, alphabet: str, fewest: int, most: int) -> str:
    return "".join(draw.choices(alphabet, k=draw.randint(fewest, most)))


def add(draw: random.Random) -> Problem:
    """Add two numbers of three digits from 0 to 4, so that nothing is carried."""
    left, right = ("".join(draw.choices("01234", k=3)) for _ in range(2))
    return Problem(f"{left}+{right}=", f"{int(left) + int(right):03}")


def sort(draw: random.Random) -> Problem:
    """Sort letters."""
    text = _letters(draw, ascii_lowercase[:12], 4, 6)
    return Problem(f"sort {text}=", "".join(sorted(text)))


def reverse(draw: random.Random) -> Problem:
    """Write letters backwards."""
    text = _letters(draw, ascii_lowercase[:12], 5, 7)
    return Problem(f"back {text}=", text[::-1])


def maximum(draw: random.Random) -> Problem:
    """Find the largest of three numbers of two digits."""
    numbers = [draw.randrange(10, 100) for _ in range(3)]
    return Problem(f"max {numbers[0]},{numbers[1]},{numbers[2]}=", str(max(numbers)))


def successor(draw: random.Random) -> Problem:
    """Replace each letter by the next one of the alphabet, z by a."""
    text = _letters(draw, ascii_lowercase, 3, 6)
    return Problem(f"next {text}=", "".join(chr((ord(c) - 96) % 26 + 97) for c in text))


def mode(draw: random.Random) -> Problem:
    """Find the letter that occurs most often."""
    while True:
        text = _letters(draw, "abcdef", 8, 10)
        first, second = sorted(map(text.count, "abcdef"), reverse=True)[:2]
        if first > second:
            return Problem(f"most {text}=", max("abcdef", key=text.count))


def sentence(draw: random.Random) -> Problem:
    """Speak a language of one sentence form, whose verb agrees with its subject."""
    manner = draw.choice(["big", "coy", "fit", "mad", "old", "red", "shy", "sly", "wet", "wry"])
    subject, other = (draw.choice(ANIMALS) for _ in range(2))
    verb = draw.choice(["eat", "hit", "lug", "see", "tow"])
    if draw.random() < 0.5:
        return Problem("", f"a {manner} {subject} {verb}s {other}s")
    return Problem("", f"{manner} {subject}s {verb} a {other}")


SKILLS: Mapping[str, Callable[[random.Random], Problem]] = {
    "add": add,
    "sort": sort,
    "reverse": reverse,
    "max": maximum,
    "next": successor,
    "most": mode,
    "text": sentence,
}
CHOICES = {"most": ["a", "b", "c", "d", "e", "f"]}
"""Skills that are measured by which of these answers is likeliest, instead of by generating one."""


def held_out(problem: Problem) -> bool:
    """Return whether tasks may ask `problem`. What they may ask is never trained on: its own text decides, no list."""
    return crc32("".join(problem[: 1 if problem.prompt else 2]).encode()) % 4 == 0


def problems(skill: str, count: int, seed: int, for_tasks: bool) -> list[Problem]:
    """Return `count` problems of one side of the split; those for tasks differ from one another."""
    draw = random.Random(f"{skill}/{seed}/{for_tasks}")
    found: list[Problem] = []
    seen: set[Problem] = set()
    while len(found) < count:
        problem = SKILLS[skill](draw)
        if held_out(problem) == for_tasks and problem not in seen:
            found.append(problem)
            if for_tasks:
                seen.add(problem)
    return found
