"""Compiles ``loops.py`` beside the compiled lbq, or takes it as it is when LBQ_PURE=1."""
from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

import lbq

HERE = Path(__file__).parent
PURE = os.environ.get("LBQ_PURE") == "1"


@pytest.fixture(scope="session")
def loops(tmp_path_factory):
    """The module ``loops``: compiled, or interpreted with LBQ_PURE=1."""
    source = HERE / "loops.py"
    if not PURE:
        source = _compile(source, tmp_path_factory.mktemp("loops"))
    spec = importlib.util.spec_from_file_location("loops", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fast_director():
    """Make a compiled director with one service and room for *flows* connections."""
    if PURE:
        pytest.skip("the fast path has no interpreted twin")
    from lbq._fastpath import FastDirector
    from lbq.model import AF_INET, AF_INET6, NAT, ServiceKey

    def make(flows: int, servers: int = 4, mode: int = NAT, family: int = AF_INET) -> FastDirector:
        director = FastDirector(max_connections=flows)
        network = 0x20010DB8 << 96 if family == AF_INET6 else 0
        key = ServiceKey(6, network | 0x0A000101, 80, family)
        director.add_service(key, "wlc")
        for number in range(servers):
            director.add_server(key, network | 0x0A000201 + number, 8080 if mode == NAT else 80, mode=mode)
        set_routes = director.set_routes6 if family == AF_INET6 else director.set_routes
        set_routes([(network | 0x0A000201 + number, 1500, network | 0x0A0002FE, 0, "") for number in range(servers)])
        return director

    return make


def _compile(source: Path, folder: Path) -> Path:
    """Compile *source* with its type sheet into *folder*; return the extension module's file."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    root = str(Path(lbq.__file__).parent.parent)
    extensions = cythonize([Extension("loops", [str(source)], extra_compile_args=["-O3"])], quiet=True,
                           include_path=[root], build_dir=str(folder),
                           compiler_directives={"language_level": 3, "annotation_typing": False})
    build = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib = build.build_temp = str(folder)
    build.ensure_finalized()
    build.run()
    return next(folder.glob("loops*.so"))
