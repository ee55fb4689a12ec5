"""The manual pages: lbq(1) out of the parsers of all its commands, lbq-ipvsadm(8) out of its usage."""
from __future__ import annotations

import argparse
import re
from unittest.mock import patch

from markdown import block

from lbq import cli
from lbq.ipvsadm.usage import USAGE

KINDS = {verb: [("service",), ("server",)] for verb in ("add", "set", "del")}


class Found(Exception):
    """Carries the parser that a command was about to use."""


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    """Return the parser that ``lbq WORDS`` reads its words with; nothing of the command is done."""
    def found(parser, *ignored, **too):
        raise Found(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", found):
        try:
            cli.main([*words, "--help"])
        except Found as carrier:
            return carrier.args[0]
    raise LookupError(f"lbq {' '.join(words)} reads no words")


def commands() -> list[list[str]]:
    """Return the words of every command that has a parser of its own."""
    return [[name, *kind] for name in cli.COMMANDS for kind in KINDS.get(name, [()])]


def pages() -> dict[str, str]:
    """Return the two pages, by path."""
    return {"lbq.md": lbq(), "lbq-ipvsadm.md": lbq_ipvsadm()}


def lbq() -> str:
    """Return lbq(1)."""
    whole = parser_of([])
    parts = ["# lbq", "## Synopsis", usage(whole), "## Description", escaped(whole.description), "## Options",
             options(whole), "## Commands at a glance", block(whole.epilog.rstrip().split("\n")), "## Commands"]
    for words in commands():
        parser = parser_of(words)
        parts += [f"### lbq {' '.join(words)}", usage(parser), escaped(parser.description), options(parser)]
        if parser.epilog:
            parts.append(block(parser.epilog.rstrip().split("\n")))
    parts += ["## Environment", ENVIRONMENT, "## See also", "**lbq-ipvsadm**(8), **iptables**(8), **ip-netns**(8)"]
    return "\n\n".join(part for part in parts if part) + "\n"


def lbq_ipvsadm() -> str:
    """Return lbq-ipvsadm(8)."""
    name = "lbq-ipvsadm"
    return "\n\n".join([f"# {name}", "## Synopsis and options", block(USAGE.replace("%s", name).rstrip().split("\n")),
                        IPVSADM]) + "\n"


def usage(parser: argparse.ArgumentParser) -> str:
    """Return the lines that say how a command is called."""
    return block(parser.format_usage().removeprefix("usage: ").rstrip().split("\n"))


def options(parser: argparse.ArgumentParser) -> str:
    """Return all arguments with what they mean, as a list of definitions."""
    formatter = parser.formatter_class(parser.prog)
    found = []
    for action in parser._actions:      # argparse offers no other way to them
        if isinstance(action, argparse._HelpAction):
            continue
        name = formatter._format_action_invocation(action)
        meaning = formatter._expand_help(action) if action.help else "as said above"
        found.append(f"`{name}`\n: {escaped(' '.join(meaning.split()))}")
    return "\n\n".join(found)


def escaped(text: str) -> str:
    """Return *text* with nothing in it that Markdown understands."""
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", text.strip())


ENVIRONMENT = """\
`LBQ_DATA_PATH`, `LBQ_KERNEL_PROFILE`, `LBQ_WORKERS`
: what `--data-path`, `--kernel-profile` and `--workers` are when nothing is said

`LBQ_DEBUG`
: 1 tells more in the log, and where a mistake comes from

`LBQ_PURE`
: 1 runs the plain Python of what is compiled as a rule"""
IPVSADM = """\
## Description

ipvsadm for an lbq director: commands, options, errors, exit status and every byte of its listings are those of
ipvsadm 1.31.  Called through a link named `ipvsadm` it says `ipvsadm`.  It speaks to the director of its network
namespace; when there is none, one line says so (status 2).  Sync daemons are refused with one line.

`lbq-ipvsadm-save` and `lbq-ipvsadm-restore` are the two scripts that come with ipvsadm.

## Environment

`LBQ_AUTOSTART`
: 1 starts a director when none runs; it ends with `lbq stop`

`LBQ_KERNEL_PROFILE`
: classic or new: whose decisions such a director makes

## See also

**lbq**(1)"""
