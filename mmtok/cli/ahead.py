"""`mmtok compile` and `mmtok inspect`: a training run on paper."""

import dataclasses
from collections.abc import Sequence

import jax
from flax import nnx

from mmtok.cli.options import ProjectOption, parse_project
from mmtok.errors import MmtokError
from mmtok.progress import say
from mmtok.project import plan_training
from mmtok.train.ahead import compile_for
from mmtok.train.layout import Layout
from mmtok.train.sharding import make_mesh, table
from mmtok.train.targets import mesh_of, parse_target


@dataclasses.dataclass(frozen=True)
class Compile:
    """Compiles the training step of a project for hardware that need not be there, and says what it takes."""

    project: ProjectOption
    target: str = ""
    """Such as v5p-256, 2xv5e-256 (two slices) or 64xH100."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Says what a project's model is made of."""

    project: ProjectOption
    shardings: bool = False
    """Print where each parameter lies: path, shape, dtype, names of its axes, the mesh axes that split them, bytes per
    device."""
    target: str = ""
    """Hardware to lay it out on; this machine's devices when left out."""


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs the command."""
    if command == "compile":
        _compile(parse_project(Compile, arguments, prog="mmtok compile"))
    else:
        _inspect(parse_project(Inspect, arguments, prog="mmtok inspect"))


def _compile(options: Compile) -> None:
    if not options.target:
        raise MmtokError("mmtok compile needs --target, such as v5p-256, 2xv5e-256 or 8xH100")
    target = parse_target(options.target)
    jax.config.update("jax_platforms", "cpu")  # whatever this machine has is not what we compile for
    say(f"compiling for {target.devices} x {target.chip}; this takes minutes")
    project = options.project
    print(compile_for(plan_training(project), project.fit, target, remat=project.model.remat))


def _inspect(options: Inspect) -> None:
    if not options.shardings:
        raise MmtokError("mmtok inspect needs --shardings, which prints where each parameter lies")
    project, target = options.project, parse_target(options.target) if options.target else None
    mesh = mesh_of(target, project.fit.mesh) if target else make_mesh(project.fit.mesh)
    task = plan_training(project)
    parameters = Layout(nnx.eval_shape(lambda: task.init(jax.random.key(0)))).params
    print(table(parameters, mesh=mesh, rules=project.fit.mesh.rules))
