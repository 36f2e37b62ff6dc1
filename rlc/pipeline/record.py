"""Export, evaluate and record what a run has made: artifact, returns, result.json."""

from compression.artifact import add_origin, load_policy
from compression.files import ONNX_FILE
from compression.runtime import OnnxPolicy, weight_bytes
from measure.returns import random_policy, zero_policy
from rlc.pipeline.protocol import protocol_of
from rlc.pipeline.tracking import Tracker, compared
from rlc.pipeline.training import MadePolicy, fingerprint
from rlc.runs.identity import identity
from rlc.runs.provenance import provenance
from rlc.runs.records import (
    BaselineScores,
    ExportRecord,
    PolicyScores,
    ReferenceScores,
    RunIdentity,
    RunResult,
    RunScores,
)
from rlc.runs.run import Run
from trainers.policy import Policy


def export_run(run: Run, policy: Policy) -> ExportRecord:
    """Quantise the policy if asked, and write the run's artifact.

    Raises ArtifactError where the exported file does not agree with the policy.
    """
    settings = run.settings
    protocol = protocol_of(settings)
    deployed = protocol.deploy(policy, settings.algo.name)
    contract, model = protocol.export(
        run.artifact, deployed, settings.compress, algorithm=settings.algo.name, seed=run.seed
    )
    return ExportRecord(onnx_file_bytes=len(model), weight_bytes=weight_bytes(model), parity=contract["parity"])


def evaluate_run(run: Run) -> RunScores:
    """Returns of the run's artifact, of its baseline, of random and of zero actions, on the same start states."""
    act = OnnxPolicy(run.artifact / ONNX_FILE)
    returns = protocol_of(run.settings).evaluate(act, run, run.settings.eval)
    scores = PolicyScores(
        return_mean=returns.mean,
        return_std=returns.std,
        episode_returns=list(returns.returns),
        episode_lengths=list(returns.lengths),
    )
    is_fp32 = run.settings.is_fp32
    baseline = _fp32_scores(returns.mean, returns.std) if is_fp32 else _baseline_scores(run)
    return RunScores(**scores.fields(), **baseline.fields(), **_reference_scores(run).fields())


def finalize_run(run: Run, tracker: Tracker, made: MadePolicy, export: ExportRecord, scores: RunScores) -> None:
    """Write result.json, tell W&B, and mark the run as done."""
    settings = run.settings
    run_identity = RunIdentity(
        env_id=settings.env.id,
        algo=settings.algo.name,
        protocol=settings.protocol,
        compress=settings.compress.method,
        label=run.label,
        seed=run.seed,
        identity=run.identity,
        training_identity=run.training_identity,
        total_steps=settings.total_steps,
    )
    # What was trained here has the fingerprint of the whole agent, critics included.
    weights = {"final_weights_sha256": fingerprint(dict(made.policy.state_dict()))}
    result = RunResult(
        **run_identity.fields(),
        **scores.fields(),
        **export.fields(),
        **(weights | made.record.fields()),
        device=settings.device,
        provenance=provenance(),
    )
    origin = {
        "run": run.name,
        "seed": run.seed,
        "commit": result.provenance.git_commit,
        "return": f"{scores.return_mean:.1f} +- {scores.return_std:.1f}",
    }
    add_origin(run.artifact, origin)
    tracker.finished(result)
    run.log(f"finished: return {scores.return_mean:.2f} +- {scores.return_std:.2f}, {export.onnx_file_bytes} bytes")
    run.finish(result)


def backfill_baseline(run: Run) -> None:
    """Add the fp32 return to the result of a run that finished before its baseline did."""
    result = run.finished_result()
    if result.fp32_return_mean is None and run.baseline is not None:
        run.write_result(result.model_copy(update=_baseline_scores(run).fields()))
        tracker = Tracker(run)
        tracker.summary(compared(run, run.finished_result()))
        tracker.finish()


def _baseline_scores(run: Run) -> BaselineScores:
    """Return of the baseline's policy by the protocol of the run, or why there is none."""
    baseline = run.baseline
    if baseline is None:
        reason = f"no fp32 run of seed {run.seed} with these training settings was finished before"
        return BaselineScores(fp32_return_mean=None, fp32_return_std=None, fp32_missing_reason=reason)
    comparable = _comparable_scores(run)
    if comparable is not None:
        return _fp32_scores(comparable.return_mean, comparable.return_std)
    protocol = protocol_of(run.settings)
    policy = protocol.deploy(load_policy(baseline.artifact), run.settings.algo.name)
    returns = protocol.evaluate(OnnxPolicy.from_policy(policy), run, run.settings.eval)
    return _fp32_scores(returns.mean, returns.std)


def _fp32_scores(mean: float, std: float) -> BaselineScores:
    return BaselineScores(fp32_return_mean=mean, fp32_return_std=std, fp32_missing_reason=None)


def _reference_scores(run: Run) -> ReferenceScores:
    """Returns of uniform random actions and of the zero action."""
    comparable = _comparable_scores(run)
    if comparable is not None:
        return ReferenceScores(
            random_return_mean=comparable.random_return_mean,
            random_return_std=comparable.random_return_std,
            zero_return_mean=comparable.zero_return_mean,
            zero_return_std=comparable.zero_return_std,
        )
    evaluate = protocol_of(run.settings).evaluate
    evaluation = run.settings.eval
    random = evaluate(random_policy(run.spec, evaluation.seed), run, evaluation)
    zero = evaluate(zero_policy(run.spec), run, evaluation)
    return ReferenceScores(
        random_return_mean=random.mean,
        random_return_std=random.std,
        zero_return_mean=zero.mean,
        zero_return_std=zero.std,
    )


def _comparable_scores(run: Run) -> RunResult | None:
    """The baseline's result, where it was scored by our protocol on the start states of this run."""
    if run.settings.is_fp32 or run.settings.protocol != "ours" or run.baseline is None:
        return None
    result = run.baseline.finished_result()
    return result if result.identity == identity(run.settings.with_fp32()) else None
