"""The registry's policy: what a model must show before it becomes the champion.

`mlflow/gates.yaml` holds the numbers: a default section, and what a recipe's own has in its place. A gate is a function
from evidence to verdicts. "Better" means that the interval of a paired bootstrap over the same rows lies above the
bound, not that a mean is larger.
"""

from collections.abc import Iterator
from dataclasses import replace

from flows.registry import evidence, grounding, provenance, sight
from flows.registry.evidence import Evidence
from flows.registry.policy import POLICY, Policy, beside_parent, bound, main_metric
from flows.registry.verdict import Verdict
from tasks.export import parity
from tasks.grading.bootstrap import Interval, paired_difference
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError


def judge(e: Evidence, policy: Policy) -> list[Verdict]:
    """Pass every gate's verdict, in the order in which a person wants to read them."""
    return [
        *_quality(e, policy),
        *_sight(e, policy),
        *_grounding(e, policy),
        *_parity(e, policy),
        _served_score(e, policy),
        provenance.contamination(e),
        provenance.lineage(e),
        provenance.workspace(e),
        provenance.commit(e, policy.allow_dirty),
    ]


def _quality(e: Evidence, policy: Policy) -> Iterator[Verdict]:
    """Judge the metric that must rise, then every metric that must not fall."""
    main = main_metric(policy)
    if main not in e.candidate.rows:
        raise ConfigError(
            f"{POLICY}: quality.metric '{main}' was not evaluated of {e.model}{suggest(main, e.candidate.rows)}"
        )
    against = e.baseline.label if e.baseline else "a champion or a parent"
    yield _above(e, policy, "quality", main, policy.quality.gain, f"{main} − {against} > {policy.quality.gain:+g}")
    for metric in sorted(e.candidate.rows.keys() - {main}):
        tolerated = bound(metric, policy, rewarded=e.rewarded)
        if tolerated is not None:
            yield _above(e, policy, "regression", metric, -tolerated, f"{metric} − {against} > {-tolerated:+g}")
            yield from _beside_parent(e, policy, metric, tolerated)
    yield from _unasked(e, policy)


def _beside_parent(e: Evidence, policy: Policy, metric: str, tolerated: float) -> Iterator[Verdict]:
    """Hold a model that learnt from preferences or rewards against its parent too, where another is the champion."""
    if not e.rewarded or e.baseline is None or e.parent is None or e.parent.digest in (e.baseline.digest, e.digest):
        return
    if beside_parent(metric, policy):
        required = f"{metric} − {e.parent.label} > {-tolerated:+g}"
        yield _above(replace(e, baseline=e.parent), policy, "regression", metric, -tolerated, required)


def _unasked(e: Evidence, policy: Policy) -> Iterator[Verdict]:
    """Refuse a candidate that was not asked what the model before it answered: a loss there would go unseen.

    Not of models that see, hear or read: the model before them may answer words alone.
    """
    if e.baseline is None or policy.allow_changed_evaluation or policy.sight is not None or e.reading is not None:
        return
    for metric in sorted(e.baseline.rows.keys() - e.candidate.rows.keys()):
        if bound(metric, policy, rewarded=e.rewarded) is not None:
            found = f"{e.model} was not evaluated on {metric.partition('.')[0]}; ask it too, or set its bound to null"
            yield Verdict("regression", f"{metric}, which {e.baseline.label} answered", found, False)


def _sight(e: Evidence, policy: Policy) -> Iterator[Verdict]:
    """Judge whether a model that sees or hears is worse with another picture or sound."""
    if policy.sight is None:
        return
    metric = main_metric(policy)
    required = f"{metric} of {policy.form} − with '{policy.sight.control}' ≥ {policy.sight.gain:+g}"
    passed, found = sight.judge(e.controls, metric, e.candidate.higher_is_better[metric], policy.sight)
    yield Verdict("sight", required, found, passed)


def _grounding(e: Evidence, policy: Policy) -> Iterator[Verdict]:
    """Judge a reader with its index; without a policy for one, that it has none."""
    if policy.grounding is None:
        if e.reading is not None:
            missing = f"a model with an index, and {POLICY} has no 'grounding' for its rows; add it"
            yield Verdict("index", "bounds for a reader", missing, False)
        return
    passed, found = grounding.together(e.reading)
    yield Verdict("index", "the index that it was evaluated with", found, passed)
    if e.reading is not None:
        task = main_metric(policy).partition(".")[0]
        for required, found, passed in grounding.judge(e.reading, task, policy.grounding, policy.form):
            yield Verdict("grounding", required, found, passed)


def _above(e: Evidence, policy: Policy, gate: str, metric: str, bound: float, required: str) -> Verdict:
    """Judge whether the paired difference's low end lies above `bound`; the sign is turned where lower is better."""
    if e.evaluated != e.digest:
        return Verdict(gate, required, "the evaluation is of another version of the model; run `polm run`", False)
    if policy.grounding is not None and (e.baseline is None or not _shared(e, e.baseline, metric)):
        return Verdict(gate, required, "no reader before it was asked this: the bounds of `grounding` decide", True)
    if e.baseline is None:
        return Verdict(gate, required, f"{e.model} has no evaluated parent and there is no champion", False)
    if e.baseline.digest == e.digest and e.baseline.index == e.candidate.index:
        return Verdict(gate, required, f"the same weights as {e.baseline.label}", True)
    difference = _difference(e, e.baseline, policy, metric)
    if isinstance(difference, str):
        return Verdict(gate, required, difference, False)
    found = f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    passed = difference.low > bound
    return Verdict(gate, required, found if passed else f"{found}: {bound - difference.low:.4f} short", passed)


def _shared(e: Evidence, baseline: evidence.Scores, metric: str) -> set[str]:
    """List the rows that both were scored on; a row of a reader is another one once its passages are others."""
    return e.candidate.rows[metric].keys() & baseline.rows.get(metric, {}).keys()


def _difference(e: Evidence, baseline: evidence.Scores, policy: Policy, metric: str) -> Interval | str:
    """Compute the paired difference, positive when the candidate is better; or say why there is none."""
    if metric not in baseline.rows:
        return f"{baseline.label} was never asked this"
    ours, theirs = e.candidate.rows[metric], baseline.rows[metric]
    shared = ours.keys() & theirs.keys()
    task = metric.split(".")[0]
    changed = ours.keys() != theirs.keys() or e.candidate.tasks.get(task) != baseline.tasks.get(task)
    if not shared or (changed and not policy.allow_changed_evaluation):
        how = "with another task file" if ours.keys() == theirs.keys() else "other rows"
        remedy = "evaluate both alike, or set allow_changed_evaluation"
        return f"{baseline.label} was asked {how} ({len(shared)} of {len(ours)} rows shared); {remedy}"
    if policy.least_rows is not None and len(shared) < policy.least_rows:
        return f"{len(shared)} rows, too few for an interval: least_rows is {policy.least_rows}; evaluate on more"
    sign = 1.0 if e.candidate.higher_is_better[metric] else -1.0
    return paired_difference(
        {row: sign * ours[row] for row in shared},
        {row: sign * theirs[row] for row in shared},
        **policy.bootstrap.model_dump(),
    )


def _served_score(e: Evidence, policy: Policy) -> Verdict:
    """Judge whether what is served scores as the model that was compared above, but for what rounding may cost."""
    metric, form = main_metric(policy), policy.form
    required = f"{metric} of {form} − PyTorch's ≥ {-policy.served_loss:+g}"
    if e.served is None:
        return Verdict("served score", required, f"{form} was not evaluated; run `polm run`", False)
    if e.served.digest != e.export.digest:
        return Verdict("served score", required, "evaluated on another export; run `polm run`", False)
    difference = _difference(replace(e, candidate=e.served), replace(e.candidate, label="PyTorch"), policy, metric)
    if isinstance(difference, str):
        return Verdict("served score", required, difference, False)
    found = f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    return Verdict("served score", required, found, difference.value >= -policy.served_loss)


def _parity(e: Evidence, policy: Policy) -> Iterator[Verdict]:
    """Judge whether every form answers like its model, and the one that is served was held to a bound."""
    forms, thresholds = e.parity["forms"], e.parity["thresholds"]
    required = "every form within its thresholds"
    lacking = parity.unmeasured(forms)
    wrong = [*(failure.sentence for failure in parity.failures(forms, thresholds)), *lacking]
    failed = "; ".join([*wrong, *(["`polm run` exports again and measures it"] if lacking else [])])
    shown = ", ".join(f"{name} KL {measures['kl_per_token']:g}" for name, measures in forms.items())
    yield Verdict("parity", required, failed or shown, not failed)
    form = policy.form
    problem = ""
    if e.export.inputs["model"] != e.digest:
        problem = "exported from another version of the model; run `polm run`"
    elif form not in forms or not any(name.startswith(f"{form}/") for name in e.export.files):
        problem = f"there are only {', '.join(forms)}; name one of them in {POLICY}"
    elif thresholds[form]["kl_per_token"] is None:
        problem = f"forms.{form}.thresholds.kl_per_token is null in export_onnx.yaml: nothing was proven about it"
    found = problem or f"{forms[form]['bytes'] / 1e6:.1f} MB, {forms[form]['argmax_agreement']:.1%} the same tokens"
    yield Verdict("served form", f"{form} of this model, with a bound on its KL", found, not problem)
