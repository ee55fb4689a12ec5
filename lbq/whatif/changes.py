"""Changes in the words of the command line, made to an engine: ``del server 192.168.10.1:80 192.168.20.1``."""
from __future__ import annotations

import shlex

from lbq.control.operations import NEW_SERVER, filled, server_arguments
from lbq.director import Director
from lbq.errors import ConfigError
from lbq.grammar import check_server, parse_server, parse_service, refuse_settings
from lbq.model import RealServer, ServiceKey
from lbq.options import parse_sysctl

FORMS = ("add server SERVICE RIP[,SETTING=VALUE]", "set server SERVICE RIP,SETTING=VALUE", "del server SERVICE RIP",
         "drain SERVICE RIP", "del service SERVICE", "sysctl NAME=VALUE")


def make(engine: Director, change: str) -> None:
    """Make *change*, a line as after ``lbq``, to *engine*."""
    try:
        words = shlex.split(change)
    except ValueError as error:
        raise ConfigError(f"'{change}': {error}") from error
    words = words[1:] if words[:1] == ["lbq"] else words
    match words:
        case ["del", "service", service]:
            engine.delete_service(_known(engine, service))
        case ["del", "server", service, server]:
            key, said = _server(engine, service, server)
            refuse_settings(said, server, "deleting")
            engine.delete_server(key, said.address, said.port, said.family)
        case ["drain", service, server]:
            key, said = _server(engine, service, server)
            refuse_settings(said, server, "draining")
            _set(engine, key, said._replace(weight=0))
        case ["set", "server", service, server]:
            key, said = _server(engine, service, server)
            if not said.says_something():
                raise ConfigError(f"'{change}' sets nothing; write {server},weight=0")
            _set(engine, key, said)
        case ["add", "server", service, server]:
            key, said = _server(engine, service, server)
            first = next(iter(engine.services.by_key[key].servers), None)
            words = filled(said, NEW_SERVER._replace(mode=first.mode) if first else NEW_SERVER)
            check_server(words, key, words.mode)
            engine.add_server(*server_arguments((key, *words.place()), words))
        case ["sysctl", *settings] if settings:
            for text in settings:
                name, value = parse_sysctl(text)
                if value is None:
                    raise ConfigError(f"'{text}' sets nothing; write {text}=VALUE")
                engine.set_sysctl(name, value)
        case _:
            raise ConfigError(f"'{change}' is no change, which is in quotes as a whole; there are: {'; '.join(FORMS)}")


def _known(engine: Director, text: str) -> ServiceKey:
    key = parse_service(text)
    engine.services.service(key)        # raises when there is none
    return key


def _server(engine: Director, service: str, server: str):
    key = _known(engine, service)
    return key, parse_server(server, key)


def _set(engine: Director, key: ServiceKey, said) -> None:
    known: RealServer = engine.services.server(key, said.address, said.port, said.family)
    before = NEW_SERVER._replace(weight=known.weight, mode=known.mode, upper=known.upper, lower=known.lower,
                                 tunnel=known.tunnel.type, tunnel_port=known.tunnel.port,
                                 tunnel_csum=known.tunnel.flags)
    words = filled(said, before)
    check_server(words, key, words.mode)
    engine.set_server(*server_arguments((key, *words.place()), words))
