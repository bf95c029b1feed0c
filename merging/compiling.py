"""Functions in two forms: compiled by torch into one pass over memory, or plain where they cannot be compiled."""

import functools
import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any, ParamSpec

import torch

torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
"""Variants of one function: by the number of sources, their types and the method's flags."""

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"cpp.threads": 1, "cpp_wrapper": True}
"""Compiled functions use the calling thread alone and hold no lock of Python's meanwhile (their wrapper is C++, too):
several run beside each other on blocks of their own, and none waits at a barrier for a thread that others keep busy."""

logger = logging.getLogger(__name__)
Parameters = ParamSpec("Parameters")


@functools.cache
def compiled_or_plain(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Return `function`, which writes into its arguments, compiled for any length of them.

    Compiling needs a C++ compiler and happens at the first call. Where it fails, the plain function takes over, for
    good; bits are equal (the compiler is told not to fuse multiply and add). Any thread may call the result.
    """
    compiled = torch.compile(_with_own_code(function), dynamic=True, fullgraph=True, options=OPTIONS)
    usable = True

    @torch.no_grad()  # of each thread alone: a function is compiled anew for another mode
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        nonlocal usable
        if usable:
            try:
                compiled(*args, **kwargs)
                return
            except Exception as error:  # whatever the compiler's tool chain raises
                usable = False
                logger.warning("merging without a compiled pass, which is slower: %s", str(error).split("\n", 1)[0])
        function(*args, **kwargs)

    return run


def _with_own_code(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Return the function with a code object of its own: torch counts and looks up what it compiled by code object."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
