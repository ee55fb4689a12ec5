"""How the words of a command line become options: the rules of popt, the library the real ipvsadm is built with.

    -n -c   -nc             letters may share a word
    -s rr   -srr   -s=rr    a value is the rest of the word, after one ``=``, or the next word, whatever that is
    -p      -p 100          an optional value is never a next word that begins with ``-``
    --scheduler rr   --scheduler=rr      long names in full
    --                      only plain words from here on

Words that are no options are collected, wherever they stand.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

NOTHING, VALUE, OPTIONAL = range(3)         # what an option takes


class Option(NamedTuple):
    """One option: its letter and its long name, either of which may be missing, and what it *takes*."""

    letter: str
    long: str
    takes: int = NOTHING


class Unreadable(Exception):
    """A word that cannot be read as an option."""


class Reader:
    """Gives the options in *words* one by one; plain words end up in ``plain``."""

    def __init__(self, options: Iterable[Option], words: list[str]):
        self.by_letter = {option.letter: option for option in options if option.letter}
        self.by_name = {option.long: option for option in options if option.long}
        self.words = words
        self.next = 0
        self.plain: list[str] = []

    @property
    def last_word(self) -> str:
        """Return the word that was read last: an option's own, or its value's."""
        return self.words[self.next - 1]

    def __iter__(self) -> Iterator[tuple[Option, str | None]]:
        """Give (option, value) for each option, or raise Unreadable for the first that is none."""
        while self.next < len(self.words):
            word = self.words[self.next]
            self.next += 1
            if word == "--":
                self.plain += self.words[self.next:]
                self.next = len(self.words)
            elif word.startswith("--"):
                yield self._long(word)
            elif word.startswith("-") and word != "-":
                yield from self._letters(word)
            else:
                self.plain.append(word)

    def _long(self, word: str) -> tuple[Option, str | None]:
        name, equals, value = word[2:].partition("=")
        option = self.by_name.get(name)
        if option is None:
            raise Unreadable(f"{word}: unknown option")
        return option, self._value(word, option, value if equals else None)

    def _letters(self, word: str) -> Iterator[tuple[Option, str | None]]:
        rest = word[1:]
        while rest:
            option, rest = self.by_letter.get(rest[0]), rest[1:]
            if option is None:
                raise Unreadable(f"{word}: unknown option")
            if option.takes == NOTHING:
                yield option, self._value(word, option, rest if rest.startswith("=") else None)
            else:
                yield option, self._value(word, option, rest.removeprefix("=") if rest else None)
                return

    def _value(self, word: str, option: Option, glued: str | None) -> str | None:
        if option.takes == NOTHING:
            if glued is not None:
                raise Unreadable(f"{word}: option does not take an argument")
            return None
        if glued is not None:
            return glued
        if self.next == len(self.words):
            if option.takes == VALUE:
                raise Unreadable(f"{word}: missing argument")
            return None
        if option.takes == OPTIONAL and self.words[self.next].startswith("-"):
            return None
        self.next += 1
        return self.words[self.next - 1]
