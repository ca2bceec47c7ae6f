"""The one-page summary of a trace."""

import jax
import jax.numpy as jnp
import pytest

from mmtok.train.profile import Instruction, durations, instructions, summary


@pytest.fixture(scope="module")
def compiled():
    def loss(weights, x):
        with jax.named_scope("attention"):
            x = jax.nn.softmax(x @ weights, axis=-1)
        with jax.named_scope("heads"):
            return jnp.log(x @ weights.T + 2).sum()

    def step(weights, x):
        grads = jax.grad(loss)(weights, x)
        with jax.named_scope("optimizer"):
            return weights - jnp.sqrt(jnp.abs(grads) + 1)

    ones = jnp.ones((256, 256))
    return jax.jit(step).lower(ones, ones).compile(), ones


def test_operations_are_told_by_their_scopes(compiled):
    program = instructions(compiled[0].as_text())
    products = [item for item in program.values() if item.opcode == "dot"]
    assert {item.part for item in products} == {"attention", "heads"}
    assert all(item.matmul for item in products)
    assert any(item.part == "optimizer" and not item.matmul for item in program.values())


def test_a_trace_of_real_steps(compiled, tmp_path):
    step, ones = compiled

    def traced(times):
        with jax.profiler.trace(str(tmp_path)):
            for _ in range(times):
                step(ones, ones).block_until_ready()
        return durations(tmp_path)

    before, spent = traced(60), traced(3)
    assert 0 < sum(spent.values()) < sum(before.values()) / 3, "earlier traces in the folder do not count"
    program = instructions(step.as_text())
    assert set(spent) & set(program)
    text = summary(spent, program, steps=3, seconds=1.0, input_wait=0.25)
    assert "3 steps in 1.000 s, 333.3 ms each; input wait  25.0%" in text
    shares = dict(line.rsplit(maxsplit=1) for line in text.splitlines() if line.startswith(("matrix", "heads", "att")))
    assert 0 < float(shares["matrix products"].rstrip("%")) <= 100
    assert 0 < float(shares["heads"].rstrip("%")) <= 100


def test_shares_and_order():
    program = {
        "dot.1": Instruction("dot", "jit(step)/jvp(heads)/dot_general", True),
        "fusion.2": Instruction("fusion", "jit(step)/decoder/attention/exp", False),
        "while.3": Instruction("while", "jit(step)/decoder/while", False),
    }
    spent = {"dot.1": 0.3, "fusion.2": 0.1, "while.3": 0.4, "copy of something else": 1.0}
    lines = summary(spent, program, steps=2, seconds=0.5, input_wait=0.0).splitlines()
    assert lines[1].endswith("200.0 ms a step")
    assert lines[3].split() == ["matrix", "products", "75.0%"]
    assert [line.split() for line in lines[4:10]] == [
        ["attention", "25.0%"],
        ["mlp", "0.0%"],
        ["embeddings", "0.0%"],
        ["heads", "75.0%"],
        ["optimizer", "0.0%"],
        ["other", "0.0%"],
    ]
    assert [line.split()[2] for line in lines[12:]] == ["dot.1", "fusion.2"]
