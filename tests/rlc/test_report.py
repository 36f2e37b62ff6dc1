"""Tables, findings and the page on small studies with known answers."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from measure.statistics import Interval, improvement, mean_interval
from rlc.config.plan import make_plan
from rlc.datafiles import read
from rlc.report import report
from rlc.reporting import console, published
from rlc.reporting import findings as rules
from rlc.reporting.findings import FAILS, HOLDS, UNKNOWN, findings, verdict
from rlc.reporting.paper_tables import Choice, largest_passing_ratio, own_choice, pruning, table1, table2, table3
from rlc.reporting.study import Study, Task, over_fp32, swept, variant
from rlc.reporting.tables import by_setting, costs, guidance, number, with_interval
from rlc.runs.records import MeasuredEnergy, MeasuredEpisodes, MeasuredMemory, MeasuredTimes, Measurement
from tests.helpers import as_run, wandb_holds
from tests.studies import HOPPER, Add, study_of, three_seeds, times_of
from trainers.errors import UserError


def test_student_interval_and_improvement_by_hand() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 / np.sqrt(3)  # the 97.5 % point of Student's t with two degrees of freedom, s = 1
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half))
    alone = mean_interval([7.0])
    assert (alone.value, alone.low, alone.high) == (7, -np.inf, np.inf)
    sure = improvement([np.array([3.0, 4.0, 5.0])], [np.array([0.0, 1.0, 2.0])])
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)
    same = improvement([np.array([1.0, 2.0, 3.0])], [np.array([1.0, 2.0, 3.0])])
    assert same.value == 0.5
    assert same.low < 0.5 < same.high


def test_the_largest_ratio_that_keeps_the_return() -> None:
    assert largest_passing_ratio(100, {0.1: 95, 0.2: 90, 0.3: 89.9}) == Choice(0.2, 90, True)
    assert largest_passing_ratio(100, {0.1: 50, 0.2: 99}) == Choice(0.2, 99, False)
    assert largest_passing_ratio(100, {0.1: 89, 0.2: 10}) == Choice(None, None, True)
    assert largest_passing_ratio(100, {0.0: 100, 0.1: 10}) == Choice(None, None, True)


def test_table1_shows_ours_beside_the_papers(add: Add) -> None:
    runs = three_seeds(add, "+algo=sac env=hopper", [3000, 3100, 3200], [0, 0, 0])
    runs.append(add("+algo=sac env=hopper +compress=ptdq", 1, 3000, 3100))
    (row,) = table1(Study(runs)).rows
    cells = dict(zip(table1(Study(runs)).headers, row, strict=True))
    assert row[:6] == ["sac", "Hopper-v4", "1,000,000", "20", "0", "3547 (v4)"]
    assert row[6:8] == ["3100 [2852, 3348] (3)", f"{published.quantized(HOPPER, 'baseline'):.0f} (1.22)"]
    assert cells["ptdq"] == "3000 (1)"
    assert (cells["ptsq"], cells["qat"]) == ("-", "-")


def test_table2_applies_the_rule_to_means_and_names_every_exception(add: Add) -> None:
    baseline = [1000.0, 1100.0, 1200.0]
    runs = three_seeds(add, "+algo=sac env=hopper", baseline, baseline)
    for ratio, share in ((0.1, 0.5), (0.3, 0.9), (0.5, 0.899)):
        words = f"+algo=sac env=hopper +compress=prune_l1 compress.ratio={ratio}"
        runs += three_seeds(add, words, [share * score for score in baseline], baseline)
    runs += three_seeds(add, "+algo=sac env=hopper +compress=prune_l2 compress.ratio=0.3", [1e3, 1e3, 1e3], baseline)
    study = Study(runs)
    (row,) = table2(study).rows
    assert row[2:5] == ["1100", "30%~", "90 %"]
    assert row[6:8] == ["30%", "91 %"]
    assert row[8] == "20%* (25%)"
    (third,) = table3(study).rows
    assert third == ["Hopper-v4", "L2 30%", "L2 20%"]


def test_a_missing_seed_shifts_no_ratio(add: Add) -> None:
    runs = three_seeds(add, "+algo=sac env=hopper", [1000, 1000, 4000], [0, 0, 0])
    runs.append(add("+algo=sac env=hopper +compress=prune_l1 compress.ratio=0.1", 2, 3700, 4000))
    found = pruning(Study(runs), HOPPER)
    assert found is not None
    assert found.choices[1] == Choice(0.1, 0.925, True)


@pytest.mark.parametrize("score", [-5.0, 15.0])
def test_a_baseline_without_skill_has_no_ratio(add: Add, score: float) -> None:
    runs = three_seeds(add, "+algo=sac env=hopper", [score] * 3, [score] * 3)
    runs += three_seeds(add, "+algo=sac env=hopper +compress=prune_l2", [score] * 3, [score] * 3)
    study = Study(runs)
    assert table2(study).rows[0][6:8] == ["no skill", "-"]
    assert table3(study).rows[0][1] == "no skill"
    assert len(study.cells[HOPPER, "fp32"].normalized_return) == 0


def test_the_papers_own_data_break_its_rule_in_more_than_half_of_the_cells() -> None:
    tasks = [Task(row["algo"], f"{row['env']}-v4") for row in read("paper/table2.csv")]
    pairs = [(own_choice(task, norm), published.listed_ratio(task, norm)) for task in tasks for norm in (1, 2)]
    checked = [(own, f"{listed:.0%}") for own, listed in pairs if own is not None and listed is not None]
    assert len(checked) == 48  # PPO on HalfCheetah is another run's
    assert sum(own != listed for own, listed in checked) == 28
    assert len(read("paper/figures2_3_pruning.csv")) == 25 * 2 * 15
    assert {float(row["ratio"]) for row in read("paper/figures2_3_pruning.csv")} == {0, *published.RATIOS}


def test_the_paper_stands_beside_its_own_version_only(add: Add) -> None:
    study = Study([add("+algo=sac env=hopper env.version=v5", 0, 3000)])
    assert table1(study).rows[0][5:8] == ["-", "3000 (1)", "-"]
    assert table3(study).rows[0] == ["Hopper-v5", "-", "-"]


def test_guidance_takes_the_fewest_bytes_within_the_tolerance(add: Add) -> None:
    runs = three_seeds(add, "+algo=sac env=hopper", [1020] * 3, [0] * 3, weight_bytes=1000)
    sizes = (("ptdq", 1020 - 10, 300), ("prune_l2", 1020 - 40, 200), ("ptsq", 1020 - 90, 100))
    for method, score, size in sizes:
        words = f"+algo=sac env=hopper +compress={method}"
        runs += three_seeds(add, words, [score] * 3, [1020] * 3, weight_bytes=size)
    assert guidance(Study(runs)).rows[0][3:] == [
        "ptdq, 30 %",
        "prune_l2-0.30, 20 %",
        "ptsq, 10 %",
    ]


def test_what_must_not_be_pooled_is_refused(add: Add) -> None:
    first = add("+algo=sac env=hopper", 0, 1.0, first_observations_sha256="a")
    with pytest.raises(UserError, match=r"fp32, fp32~\w+; choose with label=... or total_steps=..."):
        Study([first, add("+algo=sac env=hopper total_steps=20000", 1, 1.0)])
    with pytest.raises(UserError, match=r"Hopper-v4, Hopper-v5: versions do not mix in a table"):
        Study([first, add("+algo=sac env=hopper env.version=v5", 0, 1.0)])
    with pytest.raises(UserError, match="have the same first_observations_sha256"):
        Study([first, add("+algo=sac env=hopper", 1, 1.0, first_observations_sha256="a")])


def test_a_sweep_has_a_row_for_each_setting_the_best_first(add: Add) -> None:
    runs = [add("+algo=sac env=hopper", seed, 100.0 + seed) for seed in range(2)]
    runs += [add("+algo=sac env=hopper total_steps=20000", seed, 300.0 + seed) for seed in range(3)]
    runs += [add("+algo=sac env=hopper total_steps=20000 +compress=ptsq", 0, 150.0, 300.0)]
    runs += [add("+algo=ppo env=hopper", 0, 5.0)]
    table = by_setting(swept(runs))
    assert [row[:2] for row in table.rows] == [["sac", "Hopper-v4"]] * 3
    assert [row[3].partition(" ")[0] for row in table.rows] == ["301", "100", "150"]
    assert [row[3][-3:] for row in table.rows] == ["(3)", "(2)", "(1)"]
    assert swept(runs[:2] + runs[-1:]) == []
    assert swept(runs[2:]) == []


def test_end_tables_give_the_mean_over_seeds(
    add: Add, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    references: dict[str, Any] = {"random_return_mean": 0.0}
    runs = [add("+algo=sac env=hopper", seed, 100.0 + 2 * seed, **references) for seed in range(2)]
    runs += [add("+algo=sac env=hopper +compress=qat", seed, 51.0, 102.0, **references) for seed in range(2)]
    runs += [add("+algo=ppo env=hopper", 0, 5.0, algo="ppo", **references)]
    console.show(runs)
    shown = capsys.readouterr().out
    assert re.search(r"sac fp32 +mean of 2 +101.0 \[88.3, 113.7\] +101.0 .* 100.0 %", shown)
    assert re.search(r"sac qat +mean of 2 +51.0 \[51.0, 51.0\] +102.0 .* 50.0 %", shown)
    assert shown.count("sac qat") == 3
    assert re.search(r"ppo fp32 +0 +5.0", shown)
    monkeypatch.setattr(console, "MOST_SEEDS", 4)
    console.show(runs)
    shown = capsys.readouterr().out
    assert shown.count("sac qat") == 1
    assert re.search(r"ppo fp32 +0 +5.0", shown)
    console.show(runs[-1:])
    assert "kept" not in capsys.readouterr().out


def test_runs_of_other_steps_are_marked(add: Add) -> None:
    runs = [add("+algo=sac env=hopper", 0, 1e3), add("+algo=sac env=hopper +compress=qat total_steps=20000", 0, 9e2)]
    assert table1(Study(runs)).rows[0][2] == "20,000 / 1,000,000"


def test_recovery_is_a_variant_of_its_own() -> None:
    words = "+algo=sac env=hopper +compress=prune_l2 compress.finetune=distill"
    assert variant(make_plan(words.split()).jobs[0].settings) == "prune_l2-0.30+distill"


def test_qat_is_in_shares_of_the_mean_fp32_policy(add: Add) -> None:
    """Random actions return 20; one fp32 policy hardly learned, and the QAT training of its seed did."""
    words, fp32 = "+algo=sac env=hopper", [30.0, 1020.0, 1020.0]
    study = Study(
        [
            *three_seeds(add, words, fp32, fp32),
            *three_seeds(add, f"{words} +compress=ptdq", [30.0, 1020.0, 520.0], fp32),
            *three_seeds(add, f"{words} +compress=qat", [690.0, 690.0, 690.0], fp32),
        ]
    )
    assert study.cells[HOPPER, "ptdq"].normalized_return == pytest.approx([1, 1, 0.5])
    assert study.cells[HOPPER, "qat"].normalized_return == pytest.approx([1, 1, 1])


def test_qat_is_compared_by_returns_and_pruning_seed_by_seed(add: Add) -> None:
    runs = []
    for words in ("+algo=sac env=hopper", "+algo=sac env=ant"):
        fp32 = [1020.0, 2020.0, 3020.0]
        runs += three_seeds(add, words, fp32, fp32)
        runs += three_seeds(add, f"{words} +compress=qat", [1520.0, 1520.0, 1520.0], fp32)
        for ratio in (0.1, 0.2):
            for norm, scores in ((1, [100.0, 200.0, 300.0]), (2, [150.0, 250.0, 290.0])):
                runs += three_seeds(add, f"{words} +compress=prune_l{norm} compress.ratio={ratio}", scores, fp32)
    found = {finding.claim: finding.evidence for finding in findings(Study(runs))}
    # A run of QAT beats one of the three of fp32.
    assert "0.333 [" in found["QAT helps SAC"]
    # L2 wins with two seeds of three, at either ratio: six values, not twelve.
    half = float(stats.t.ppf(0.975, 4)) * np.sqrt(2 * (1 / 3) / 3) / 2
    low, high = (f"{2 / 3 + sign * half:.3f}" for sign in (-1, 1))
    assert found["Pruning by L2 is better than by L1"].startswith(f"0.667 [{low}, {high}]")


def test_numbers_are_short() -> None:
    assert [number(x) for x in (12345.6, 99.96, 1.234, -0.4487, None, np.inf)] == [
        "12346",
        "100",
        "1.23",
        "-0.449",
        "-",
        "-",
    ]
    assert with_interval(Interval(5.0, -np.inf, np.inf), 1) == "5 (1)"


def test_findings_hold_fail_or_wait_for_runs(add: Add) -> None:
    tasks = ["+algo=sac env=hopper", "+algo=sac env=ant"]
    study = study_of(add, tasks, ptdq=0.99, ptsq=0.5, qat=0.8, prune_l1__1=0.85, prune_l2__1=0.97, prune_l2__6=0.95)
    found = {finding.claim: finding.verdict for finding in findings(study)}
    assert found["PTDQ is the best quantisation"] == HOLDS
    assert found["PTSQ is the worst quantisation"] == HOLDS
    assert found["QAT helps SAC"] == FAILS
    assert found["Pruning by L2 is better than by L1"] == HOLDS
    assert found["Pruning 10 % by L2 is safe"] == HOLDS
    assert found["No policy pruned by more than half keeps its return"] == FAILS
    assert found["Quantisation saves no energy"] == UNKNOWN


def test_a_verdict_needs_seeds_tasks_and_an_interval_on_one_side(add: Add) -> None:
    study = study_of(add, ["+algo=sac env=hopper", "+algo=sac env=ant"], qat=0.5)
    groups = [[cell] for cell in study.cells.values() if cell.variant == "qat"]
    assert verdict([Interval(0.7, 0.6, 0.8)], 0.5, groups) == HOLDS
    assert verdict([Interval(0.7, 0.6, 0.8), Interval(0.3, 0.2, 0.4)], 0.5, groups) == FAILS
    assert verdict([Interval(0.5, 0.4, 0.6)], 0.5, groups) == UNKNOWN
    assert verdict([Interval(0.7, 0.6, 0.8)], 0.5, groups[:1]) == UNKNOWN
    alone = [add("+algo=td3 env=hopper +compress=qat", 0, 1e3, 2e3), add("+algo=td3 env=hopper", 0, 2e3)]
    assert [rules.has_enough_seeds(cell) for cell in Study(alone).cells.values()] == [False, False]


def test_cells_of_few_seeds_do_not_count(add: Add) -> None:
    tasks = ["+algo=sac env=hopper", "+algo=sac env=ant"]
    whole = study_of(add, tasks, qat=0.5)
    few = [add("+algo=sac env=humanoid", 0, 1e3), add("+algo=sac env=humanoid +compress=qat", 0, 5e3, 1e3)]
    verdicts = [{f.claim: f for f in findings(Study(runs))} for runs in (whole.runs, [*whole.runs, *few])]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0]["QAT helps SAC"].verdict == FAILS


def test_energy_and_memory_are_judged_by_their_ratio(add: Add, tmp_path: Path) -> None:
    study = study_of(add, ["+algo=sac env=hopper", "+algo=sac env=ant"], ptdq=0.99)
    for cell in study.cells.values():
        joules = 1.1 if cell.variant == "ptdq" else 1.0
        measurement = Measurement(
            energy=MeasuredEnergy(joules_per_1000_actions=joules),
            paper=MeasuredEpisodes(process_rss_bytes=100 * joules),
        )
        cell.measurements[:] = [measurement] * cell.n
    found = {finding.claim: finding.verdict for finding in findings(study)}
    assert found["Quantisation saves no energy"] == HOLDS
    assert found["Quantisation changes the memory of the process by about 1 %"] == FAILS


def test_time_is_judged_in_onnx_runtime_and_as_c(add: Add) -> None:
    study = study_of(add, ["+algo=sac env=hopper", "+algo=sac env=ant"], ptdq=0.99, ptsq=0.9, prune_l2__5=0.9)
    onnx = {"fp32": 10.0, "ptdq": 13.0, "ptsq": 12.0, "prune_l2": 8.0}
    times_of(study, onnx, {"fp32": 3.0, "ptsq": 1.0, "prune_l2": 1.5})
    found = {finding.claim: finding for finding in findings(study)}
    quantized = found["Quantisation saves no inference time, in ONNX Runtime"]
    assert quantized.verdict == HOLDS
    assert quantized.evidence == "ratio 1.250 [1.250, 1.250]; 4 comparisons, 3 seeds each"
    native = found["Quantisation saves no inference time, as native C"]
    assert native.verdict == FAILS
    assert native.evidence == "ratio 0.333 [0.333, 0.333]; 2 comparisons, 3 seeds each"
    assert found["Pruning saves no inference time, in ONNX Runtime"].verdict == FAILS
    assert found["Pruning saves no inference time, as native C"].evidence.startswith("ratio 0.500")
    times_of(study, onnx, {})
    unmeasured = {f.claim: f for f in findings(study)}[native.claim]
    assert (unmeasured.verdict, unmeasured.evidence) == (UNKNOWN, "not measured (measurement.json says why)")
    few = {f.claim: f for f in findings(Study([add("+algo=td3 env=hopper", 0, 1e3)]))}[native.claim]
    assert (few.verdict, few.evidence) == (UNKNOWN, "no task has 3 seeds of fp32 and of a compressed policy")


def test_times_of_different_sessions_are_not_divided(add: Add) -> None:
    """Two seeds were measured beside fp32, one again when the machine was busy."""
    study = study_of(add, ["+algo=sac env=hopper"], ptsq=1.0)
    times_of(study, {"fp32": 10.0, "ptsq": 12.0}, {})
    fp32, ptsq = study.cells[HOPPER, "fp32"], study.cells[HOPPER, "ptsq"]
    slow = Measurement(load={"busy_percent": 90.0}, infer=MeasuredTimes(onnx_run_p50_us=50.0))
    ptsq.measurements[1] = slow
    assert over_fp32(ptsq, fp32, "infer.onnx_run_p50_us") == pytest.approx([1.2, 1.2])
    row = dict(zip(costs(study).headers, costs(study).rows[1], strict=True))
    assert row["us/action"] == "24.7 (1.20)"
    ptsq.measurements[:] = [slow] * 3
    assert over_fp32(ptsq, fp32, "infer.onnx_run_p50_us") == []
    assert dict(zip(costs(study).headers, costs(study).rows[1], strict=True))["us/action"] == "50"


def test_costs_show_native_times_and_bytes_over_fp32(add: Add) -> None:
    study = study_of(add, ["+algo=sac env=hopper"], ptdq=0.99, ptsq=0.9)
    times_of(study, {"fp32": 10.0, "ptdq": 13.0, "ptsq": 12.0}, {"fp32": 3.0, "ptsq": 1.0})
    for cell in study.cells.values():
        scale = 1 if cell.variant == "fp32" else 0.25
        sizes = MeasuredMemory(native_code_bytes=int(4000 * scale), native_constant_bytes=int(300_000 * scale))
        bytes_too = {"mem": sizes if cell.variant != "ptdq" else MeasuredMemory()}
        cell.measurements[:] = [one.model_copy(update=bytes_too) for one in cell.measurements if one]
    table = costs(study)
    rows = {row[2]: dict(zip(table.headers, row, strict=True)) for row in table.rows}
    assert (rows["fp32"]["native us/action"], rows["fp32"]["native KB"]) == ("3 (1.00)", "304 (1.00)")
    assert (rows["ptsq"]["native us/action"], rows["ptsq"]["native KB"]) == ("1 (0.33)", "76 (0.25)")
    assert (rows["ptdq"]["native us/action"], rows["ptdq"]["native KB"]) == ("-", "-")


def test_the_tables_reach_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    as_run("ppo-hopper", study="fixtures")
    report(["study=fixtures"])
    assert wandb_holds(tmp_path / "outputs/fixtures/report", b"table1")


def test_bad_words_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no finished run"):
        report(["study=nowhere"])
    as_run("ppo-hopper", study="fixtures")
    with pytest.raises(UserError, match="algo=sac: no finished run is called sac; there are: ppo"):
        report(["study=fixtures", "algo=sac"])
    with pytest.raises(UserError, match="studdy=x: no such key; did you mean study"):
        report(["studdy=x"])
    shutil.rmtree(tmp_path / "outputs")


def test_weights_of_seven_and_of_eight_bits_are_not_pooled(add: Add) -> None:
    """`reduce_range: auto` is decided by each machine; what was decided is what was deployed."""
    for method, pooled in (("ptsq", False), ("prune_l1", True)):
        runs = [add(f"+algo=sac +compress={method}", seed, 1.0, 1.0) for seed in (0, 1)]
        assert Study(runs).runs == runs
        compress = runs[1].settings.compress.model_copy(update={"reduce_range": True})
        runs[1].settings = runs[1].settings.model_copy(update={"compress": compress})
        if pooled:
            assert Study(runs).runs == runs
        else:
            with pytest.raises(UserError, match="weights of 7 bits"):
                Study(runs)
