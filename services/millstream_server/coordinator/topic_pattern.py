r"""Patterns of topic names, matched against the whole name in linear time.

Members bring patterns over the network, so no pattern may make the coordinator busy: instead of a
backtracking engine, where ``(a+)+b`` takes exponential time, the pattern becomes a small automaton
whose states are followed all at once (Thompson). What is understood is RE2's common core::

    literals   .   [a-z] [^a-z]   \d \w \s and their negations   \. and other escaped signs
    alternatives a|b   groups (…) (?:…)   * + ? {n} {n,} {n,m} (also lazy)   ^ at start, $ at end

Everything else (look-around, back-references, flags) is refused. Pattern length and automaton size
are limited.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

PATTERN_CHARACTERS_MAX = 256
_REPEAT_MAX = 100
_STATES_MAX = 2000
_DEPTH_MAX = 20

_DIGITS = frozenset("0123456789")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") | _DIGITS
_SPACE = frozenset(" \t\n\r\f\v")
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}

Accepts = Callable[[str], bool]


class PatternError(ValueError):
    """The pattern is malformed, too large, or uses what is not supported."""


@dataclass(slots=True)
class _State:
    """A state of the automaton: consumes a character, or passes on at once."""

    # None: passes on at once.
    accepts: Accepts | None = None
    # "^" or "$": passes on only there.
    anchor: str = ""
    following: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Literal:
    accepts: Accepts


@dataclass(frozen=True, slots=True)
class _Anchor:
    sign: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: "_Node"
    least: int
    # None: no limit.
    most: int | None


_Node = _Literal | _Anchor | _Sequence | _Choice | _Repeat


class TopicPattern:
    """A compiled pattern. Raises PatternError when made from one that is refused."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > PATTERN_CHARACTERS_MAX:
            raise PatternError(
                f"the pattern has {len(pattern)} characters, at most {PATTERN_CHARACTERS_MAX} are "
                "allowed"
            )
        self.pattern = pattern
        self._states: list[_State] = []
        self._end = self._new_state()
        self._start = self._build(_Parser(pattern).parse(), self._end)

    def matches(self, name: str) -> bool:
        """True if the pattern matches the whole name."""
        active = self._closure([self._start], at_start=True, at_end=not name)
        for index, character in enumerate(name):
            following: list[int] = []
            for number in active:
                state = self._states[number]
                if state.accepts is not None and state.accepts(character):
                    following += state.following
            if not following:
                return False
            active = self._closure(following, at_start=False, at_end=index == len(name) - 1)
        return self._end in active

    def _closure(self, numbers: Iterable[int], *, at_start: bool, at_end: bool) -> set[int]:
        reached: set[int] = set()
        stack = list(numbers)
        while stack:
            number = stack.pop()
            if number in reached:
                continue
            state = self._states[number]
            if (state.anchor == "^" and not at_start) or (state.anchor == "$" and not at_end):
                continue
            reached.add(number)
            if state.accepts is None:
                stack += state.following
        return reached

    def _new_state(self, accepts: Accepts | None = None, anchor: str = "", to: int = -1) -> int:
        if len(self._states) >= _STATES_MAX:
            raise PatternError("the pattern repeats too much")
        self._states.append(_State(accepts, anchor, [to] if to >= 0 else []))
        return len(self._states) - 1

    def _build(self, node: _Node, end: int) -> int:
        """Add the states of a node that lead to ``end``; return the first."""
        if isinstance(node, _Literal):
            return self._new_state(node.accepts, to=end)
        if isinstance(node, _Anchor):
            return self._new_state(anchor=node.sign, to=end)
        if isinstance(node, _Sequence):
            for part in reversed(node.parts):
                end = self._build(part, end)
            return end
        if isinstance(node, _Choice):
            start = self._new_state()
            self._states[start].following = [self._build(option, end) for option in node.options]
            return start
        return self._build_repeat(node, end)

    def _build_repeat(self, node: _Repeat, end: int) -> int:
        if node.most is None:
            loop = self._new_state(to=end)
            self._states[loop].following.append(self._build(node.part, loop))
            start = loop
        else:
            start = end
            for _ in range(node.most - node.least):
                optional = self._new_state(to=end)
                self._states[optional].following.append(self._build(node.part, start))
                start = optional
        for _ in range(node.least):
            start = self._build(node.part, start)
        return start


class _Parser:
    """Recursive descent over one pattern."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> _Node:
        node = self._choice()
        if self._at < len(self._text):
            raise PatternError("a ) has no ( before it")
        return node

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self) -> str:
        character = self._peek()
        if not character:
            raise PatternError("the pattern ends too early")
        self._at += 1
        return character

    def _choice(self) -> _Node:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise PatternError("groups are nested too deeply")
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._single()))
        return _Sequence(tuple(parts))

    def _repeated(self, node: _Node) -> _Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        if isinstance(node, _Anchor):
            raise PatternError("nothing stands before a repetition")
        if self._peek() == "?":  # lazy: the same whole-name matches
            self._at += 1
        if self._peek() in ("*", "+", "?") or self._bounds() is not None:
            raise PatternError("a repetition follows a repetition")
        return _Repeat(node, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        sign = self._peek()
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if sign in simple:
            self._at += 1
            return simple[sign]
        if sign != "{":
            return None
        close = self._text.find("}", self._at)
        least, comma, most = self._text[self._at + 1 : max(close, 0)].partition(",")
        if not (least.isascii() and least.isdigit() and (not most or most.isdigit())):
            raise PatternError("a { must begin a repetition such as {2} or {2,5}; escape it as \\{")
        self._at = close + 1
        low = int(least[:4])
        high = (int(most[:4]) if most else None) if comma else low
        if low > _REPEAT_MAX or (high is not None and not low <= high <= _REPEAT_MAX):
            raise PatternError(f"a repetition is not ascending or exceeds {_REPEAT_MAX}")
        return low, high

    def _single(self) -> _Node:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return _Literal(self._class())
        if character == ".":
            return _Literal(lambda other: other != "\n")
        if character in "^$":
            return _Anchor(character)
        if character in "*+?{":
            raise PatternError(f"nothing stands before {character}")
        if character == "\\":
            return _Literal(_member_of(*self._escaped()))
        return _Literal(_member_of(frozenset(character), False))

    def _group(self) -> _Node:
        if self._peek() == "?":
            if not self._text.startswith("?:", self._at):
                raise PatternError("only plain groups (…) and (?:…) are supported")
            self._at += 2
        node = self._choice()
        if self._take() != ")":
            raise PatternError("a ( is not closed")
        return node

    def _escaped(self) -> tuple[frozenset[str], bool]:
        """The characters meant by what follows a backslash, and whether all others are meant."""
        character = self._take()
        if character.lower() in _CLASSES:
            return _CLASSES[character.lower()], character.isupper()
        if character in _CONTROL:
            return frozenset(_CONTROL[character]), False
        if character.isalnum():
            raise PatternError(f"\\{character} is not supported")
        return frozenset(character), False

    def _class(self) -> Accepts:
        negated = self._peek() == "^"
        self._at += negated
        meant: set[str] = set()
        others: list[frozenset[str]] = []
        first = True
        while (character := self._take()) != "]" or first:
            first = False
            if character == "\\":
                some, all_but = self._escaped()
                if all_but:
                    others.append(some)
                    continue
            else:
                some = frozenset(character)
            meant |= self._range(some) if len(some) == 1 else some
        known = frozenset(meant)
        return lambda other: (
            (other in known or any(other not in some for some in others)) is not negated
        )

    def _range(self, low: frozenset[str]) -> frozenset[str]:
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return low
        self._at += 1
        high = self._take()
        if high == "\\":
            some, _ = self._escaped()
            high = next(iter(some)) if len(some) == 1 else ""
        (first,) = low
        if not high or not ord(first) <= ord(high) < ord(first) + 1000:
            raise PatternError("a range in a [class] is not ascending")
        return frozenset(map(chr, range(ord(first), ord(high) + 1)))


def _member_of(known: frozenset[str], negated: bool) -> Accepts:
    return lambda other: (other in known) is not negated
