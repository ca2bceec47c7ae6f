"""Plans in words: what will be generated from what."""

from collections.abc import Mapping

from mmtok.generate.known import Known
from mmtok.generate.passes import pass_count
from mmtok.generate.plan import Plan, validate
from mmtok.generate.schedules import TOKEN_SCHEDULES
from mmtok.modality import Modality, by_name


def describe(plan: Plan, known: Mapping[str, Known], modalities: tuple[Modality, ...]) -> str:
    """Returns a text that says what will be generated from what, how, and in how many forward passes."""
    plan = validate(plan, known, modalities)
    table = by_name(modalities)
    given = [name for name in table if name in known and known[name].present.any()]
    lines = ["given: " + (", ".join(f"{name} {_amount(known[name])}" for name in given) or "nothing")]
    total = 0
    for number, target in enumerate(plan, 1):
        modality, name = table[target.modality], target.modality
        conditions = [other for other in given if other != name]
        own = [f"its known part {_amount(known[name])}"] if name in given else []
        if target.scheme == "autoregressive":
            assert target.length is not None
            passes, how = target.length, f"autoregressive, at most {target.length} tokens"
        else:
            assert target.steps is not None
            tokens = int((~known[name].visible).sum(1).max()) if name in known else modality.size
            counts = TOKEN_SCHEDULES[target.token_schedule](target.steps, tokens)
            passes = int((counts > 0).sum())
            how = f"{target.scheme}, {tokens} tokens in {passes} {target.token_schedule} steps"
        how += f", temperature {target.temperature:g} {target.temperature_schedule}"
        how += f", top_k {target.top_k}" if target.top_k else ""
        how += f", top_p {target.top_p:g}" if target.top_p < 1 else ""
        how += f", min_p {target.min_p:g}" if target.min_p else ""
        how += f", noise {target.noise:g}" if target.noise else ""
        each = pass_count(target, conditions)
        if each > 1:
            scale = " ".join(f"{name}={weight:g}" for name, weight in target.weights.items()) or f"{target.guidance:g}"
            rising = "" if target.guidance_schedule == "constant" else f" {target.guidance_schedule}"
            how += f", guidance {scale}{rising} ({each} passes each)"
            passes *= each
        lines.append(f"{number}. {name} from {', '.join(conditions + own) or 'nothing'}: {how}")
        total += passes
        given = [other for other in table if other in (*given, name)]
    return "\n".join([*lines, f"forward passes: at most {total}"])


def _amount(known: Known) -> str:
    samples, positions = known.visible.shape
    most, present = int(known.visible.sum(1).max()), int(known.present.sum())
    part = f"{most} of {positions} positions" if most < positions else f"{positions} positions"
    return f"({part})" if present == samples else f"({part}, {present} of {samples} samples)"
