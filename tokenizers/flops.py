"""Counts the work of a traced function."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def flops(function: Callable[..., Any], *inputs: Any) -> float:
    """Returns the floating-point operations of all matrix products and convolutions of a function.

    Args:
      function: Traceable by JAX.
      *inputs: Arrays, or their `jax.ShapeDtypeStruct`.
    """
    return _count(jax.make_jaxpr(function)(*inputs).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                total += times * _count(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
        total += _own(equation)
    return total


def _own(equation: Any) -> float:
    results = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            return 2.0 * results * math.prod(shape[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            return 2.0 * results * math.prod(kernel) / outputs
        case _:
            return 0.0


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
