"""Prune a policy and let it learn from the one it was made of."""

from compression.distill import distill
from compression.pruning import Importance, prune
from rlc.config.compress import PruneSettings
from rlc.pipeline import build
from trainers.envs.make import env_factory
from trainers.policy import Policy, split_at_linears


def prune_policy(policy: Policy, compress: PruneSettings, seed: int) -> Policy:
    """The policy without its least important units, and recovered by distillation if asked.

    For a policy without critics: `compress.finetune` is none or distill.
    """
    before, core, after = split_at_linears(policy)
    pruned = prune(core, compress.ratio, importance_of(compress))
    student = Policy(policy.spec, [*before, *pruned, *after])
    if compress.finetune == "none":
        return student
    return distill_policy(student, policy, compress, seed)


def distill_policy(student: Policy, teacher: Policy, compress: PruneSettings, seed: int) -> Policy:
    """The student after it learned the teacher's actions, with fake quantisation where the method has it."""
    before, _, _ = split_at_linears(teacher)
    factory = env_factory(teacher.spec)
    # A policy that begins with a linear layer reads raw observations.
    raw = not before
    low = compress.quantization == "qat" and compress.bits.low
    transform = build.qat_transform(
        compress, standardize_input=raw and not low, range_momentum=0.01 if raw or low else 0.1
    )
    return distill(
        student,
        teacher,
        factory,
        seed=seed,
        transform=transform,
        few_bits=low,
        **compress.distill.model_dump(),
    )


def importance_of(compress: PruneSettings) -> Importance:
    """How units are ranked."""
    return Importance(compress.norm, compress.reduction, compress.normalizer, compress.bias)
