"""The page of a report: its structure, what it says, where its runs came from, what it leaves out."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlc.pack import pack
from rlc.report import report
from rlc.reporting import own_findings as own
from rlc.reporting.figures import kept, pictures
from rlc.reporting.files import write_table
from rlc.reporting.findings import FAILS, HOLDS, UNKNOWN
from rlc.reporting.overview import overview
from rlc.reporting.panels import METHODS, VARIABLES, Picture, draw_whole, panel_svg
from rlc.reporting.pareto import front, points, said, well_trained
from rlc.reporting.published_figures import published_pictures
from rlc.reporting.sources import core_hours, machines, span
from rlc.reporting.study import Study
from rlc.reporting.summary import glossary, scope, statements, tasks_in_words
from rlc.reporting.tables import Note, ReportTable
from rlc.runs.files import OUTPUTS
from rlc.runs.records import MeasuredMemory, MeasuredTimes, Measurement, Provenance
from rlc.unpack import unpack
from tests.helpers import as_run, make_status
from tests.packed import PACK, SAC, change_json, runs_of
from tests.studies import HOPPER, Add, study_of, three_seeds, times_of
from trainers.errors import UserError

TWO = ["+algo=sac env=hopper", "+algo=ppo env=ant"]
NO_END = {"meta", "input"}


class Page(HTMLParser):
    """The structure of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given["href"] or ""] if tag == "a" else []
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag not in NO_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [dict(attrs)["id"] or ""] if "id" in dict(attrs) else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_of_real_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for policy in ("trpo-halfcheetah", "ppo-hopper", "sac-hopper"):
        run = as_run(policy, study="fixtures")
        (run.path / "metrics.csv").write_text("global_step,eval/return_mean\n1000,5.0\n2000,\n3000,9.0\n")
    report(["study=fixtures", "page=shared.html", "wandb.mode=disabled"])
    folder = tmp_path / "outputs/fixtures/report"
    out = capsys.readouterr().out
    assert "Table 1" in out
    assert "3 runs; made by" in out
    text = (folder / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"(src|href)=.https?:|@import|url\((?!#)", text)
    inner = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inner) <= set(page.ids)
    outer = [link for link in page.links if not link.startswith("#")]
    assert len(outer) == 3
    assert all((folder / link / "result.json").is_file() for link in outer)
    shared = Page(Path("shared.html").read_text())
    assert [link for link in shared.links if not link.startswith("#")] == []
    for suffix in ("md", "tex", "csv"):
        assert (folder / f"table1.{suffix}").stat().st_size > 100
    assert len((folder / "cells.csv").read_text().splitlines()) == 4
    for name in ("learning", "figure1_published", "figure2_published"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    parts = [text.index(f'id="{name}"') for name in ("says", "pictures", "tables", "paper", "methods")]
    assert parts == sorted(parts)


@pytest.mark.parametrize("place", ["page=nowhere/study.html", "page=study.pdf"])
def test_a_place_that_cannot_be_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    as_run("ppo-hopper", study="fixtures")
    with pytest.raises(UserError, match=f"{place}: allowed: a file that ends in .html, in a folder that exists"):
        report(["study=fixtures", place])
    assert not (tmp_path / "outputs/fixtures/report").exists()


def test_text_is_escaped_for_html_and_latex(tmp_path: Path) -> None:
    table = ReportTable("t", "T", ["a & b", "c"], [["<b>|", "50 %_x"]], [Note("x")])
    write_table(tmp_path, table)
    assert r"50 \%\_x" in (tmp_path / "t.tex").read_text()
    assert r"<b>\|" in (tmp_path / "t.md").read_text()


def everything(add: Add) -> Study:
    """A study of two tasks in which everything was measured."""
    study = study_of(add, TWO, best=5000.0, ptdq=0.99, ptsq=0.98, prune_l1__1=0.9, prune_l2__5=0.4)
    sizes = {"fp32": 1.0, "ptdq": 0.3, "ptsq": 0.35, "prune_l1": 0.9, "prune_l2": 0.3}
    for cell in study.cells.values():
        method = cell.variant.partition("-")[0]
        native = None if method == "ptdq" else 2 * sizes[method]
        times = MeasuredTimes(onnx_run_p50_us=8.0 + (method == "ptdq"), native_p50_us=native)
        cell.measurements[:] = [Measurement(infer=times, mem=MeasuredMemory(bytes_per_copy=1e5))] * cell.n
        size = {"weight_bytes": int(20_000 * sizes[method])}
        cell.results[:] = [result.model_copy(update=size) for result in cell.results]
    return study


def test_a_study_with_everything_fills_every_picture(add: Add) -> None:
    study = everything(add)
    drawn = {picture.name: picture for picture in (*pictures(study, Study([])), *published_pictures(study))}
    assert list(drawn) == [
        "pareto",
        "kept",
        "figure1",
        "figure2",
        "figure3",
        "profiles",
        "figure1_published",
        "figure2_published",
        "figure3_published",
    ]
    titles = [panel.title for panel in drawn["pareto"].panels]
    assert titles == ["Bytes of the weights", "Time as native C", "Time in ONNX Runtime"]
    labels = {axes.get_ylabel() for axes in draw_whole(drawn["figure1"]).axes}
    assert labels == {"time in ONNX Runtime (us)", "time as native C (us)", "memory per copy (KB)"}
    assert {drawn[name].data for name in drawn if "published" in name} == {"paper"}
    assert drawn["figure1"].caption.endswith("Not measured: energy.")


def test_captions_say_what_is_cut_and_what_the_paper_lacks(add: Add) -> None:
    narrow = three_seeds(add, "+algo=ppo env=halfcheetah", [5000.0] * 3, [5000.0] * 3)
    narrow += three_seeds(add, "+algo=ppo env=halfcheetah +compress=ptdq", [4900.0, 5000.0, 5100.0], [5000.0] * 3)
    wide = three_seeds(add, "+algo=ppo env=halfcheetah +compress=ptsq", [2000.0, 5000.0, 8000.0], [5000.0] * 3)
    assert "go on beyond it" not in kept(Study(narrow)).caption
    assert "go on beyond it" in kept(Study([*narrow, *wide])).caption
    everywhere = Study([*narrow, *study_of(add, ["+algo=ppo env=hopper"]).runs])
    captions = {picture.name: picture.caption for picture in published_pictures(everywhere)}
    assert captions["figure2_published"].endswith("Not drawn, for want of data of the paper: PPO HalfCheetah.")
    assert "Not drawn" not in captions["figure1_published"]


def test_profiles_have_the_look_of_their_methods(add: Add) -> None:
    (keys,) = [picture.keys for picture in pictures(everything(add), Study([])) if picture.name == "profiles"]
    assert {name: (style.color, style.marker) for name, style in keys.items()} == {
        "dynamic int8": (METHODS["ptdq"].color, "s"),
        "static int8": (METHODS["ptsq"].color, "D"),
        "L1, 10 % pruned": (METHODS["prune_l1"].color, "v"),
        "L2, 50 % pruned": (METHODS["prune_l2"].color, "P"),
    }
    assert {style.dashes for style in keys.values()} == {""}


def test_nothing_empty_is_drawn(add: Add) -> None:
    study = Study([add("+algo=sac env=hopper", 0, 3000)])
    assert pictures(study, Study([])) == []
    assert statements(study, Study([]), [])[:-1] == []


def test_labels_of_a_panel_lie_on_nothing(add: Add) -> None:
    (panel, *_) = pictures(everything(add), Study([]))[0].panels
    figure = draw_whole(Picture("one", "", "", [panel], 1))
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) >= 2
    marks = axes.transData.transform([*panel.labels, *panel.taken])
    for k, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[k + 1 :])
        assert not any(box.contains(x, y) for x, y in marks)


def test_colours_of_panels_follow_the_page_and_marks_can_be_pointed_at(add: Add) -> None:
    panel = pictures(everything(add), Study([]))[0].panels[0]
    svg = panel_svg(panel, "pareto-0")
    assert not any(color in svg for color in VARIABLES)
    assert svg == panel_svg(panel, "pareto-0")
    marks = re.findall(r'<g id="[^"]*" class="mark(?: large)?"[^>]* role="link" aria-label="([^"]*)"', svg)
    assert len(marks) == len(panel.tips) == 5 * (1 + 2)
    assert re.findall(r'class="mark large" tabindex="([^"]*)"', svg) == ["0", *["-1"] * 4]
    assert any(re.fullmatch(r"dynamic int8, SAC Hopper-v4: keeps 99\.\d %, 6 KB \(30\.0 %\)", mark) for mark in marks)


def test_means_are_over_tasks_that_were_trained_well(add: Add) -> None:
    study = everything(add)
    (ptdq,) = [point for point in points(study, "weight_bytes", "weight_bytes") if point.variant == "ptdq"]
    assert ptdq.cost == pytest.approx(0.3)
    assert ptdq.kept.low < ptdq.kept.value < ptdq.kept.high
    assert len(ptdq.tasks) == 2
    assert [point.variant for point in front(points(study, "weight_bytes", "weight_bytes"))] == ["ptdq", "fp32"]
    poor = three_seeds(add, "+algo=td3 env=hopper", [300, 310, 320], [0, 0, 0])
    assert well_trained(Study(poor)) == []  # the best published return is ten times that


def test_variants_in_words() -> None:
    assert said("prune_qat-0.70-w4+distill") == "4-bit weights, 70 % pruned"
    assert said("prune_l2-0.50+distill") == "L2, 50 % pruned, then distilled"
    assert said("prune_qat-0.00-w4a8+distill") == "4-bit weights"
    assert said("ptsq") == "static int8"


def test_the_overview_has_a_row_per_method_and_the_papers_way(add: Add) -> None:
    study = everything(add)
    theirs = [run for words in TWO for run in three_seeds(add, f"{words} protocol=paper", [2500.0] * 3, [5000.0] * 3)]
    table = overview(study, Study(theirs))
    assert table.headers == ["method", "mean", "bytes", "time as C", "seeds", "PPO Ant", "SAC Hopper"]
    rows = {row[0].partition(":")[0]: row[1:] for row in table.rows}
    assert list(rows) == ["fp32", "ptdq", "ptsq", "prune_l1-0.10", "the paper's way", "prune_l2-0.50"]
    assert rows["ptsq"][1:4] == ["35.0 %", "8.7 %", "3"]
    assert rows["the paper's way"][4] == "48.6 %"
    assert [row[0] for row in table.rows if table.notes[-1].calls(row[0])] == ["the paper's way: fp32"]


def test_what_the_study_says(add: Add) -> None:
    study = everything(add)
    figures = {statement.figure: statement.text for statement in statements(study, Study([]), [])}
    assert "dynamic int8 (ptdq) keeps 99." in figures["1/3"]
    assert list(dict(glossary(study))) == ["fp32", "ptdq", "ptsq", "prune_l1, prune_l2"]
    assert "static int8 (ptsq) as C" in figures["11.4x"]
    assert "fp32 as C is 4.0 times as fast and static int8 in ONNX Runtime 1.00 times" in figures["11.4x"]
    assert "by L2" in figures["40 %"]
    assert scope(study, study.runs).startswith(
        "PPO on Ant and SAC on Hopper: 1,000,000 steps, 3 seeds of fp32 each, 30"
    )
    assert tasks_in_words([HOPPER]) == "SAC on Hopper"


def with_cpu(run: Any, cpu: str, host: str) -> Any:
    """A run as if it came from another machine."""
    made = Provenance(git_commit="abcdef0123", git_dirty=False, versions={}, cpu=cpu, gpus=[], cores=8)
    changes = {"provenance": made, "train_cpu_seconds": 3600.0, "lockstep_seeds": 2}
    run.write_result(run.finished_result().model_copy(update=changes))
    status = make_status("identity").model_copy(update={"host": host, "heartbeat": "2026-05-06T00:00:00Z"})
    run.status = lambda: status
    return run


def test_machines_by_what_the_runs_recorded(add: Add) -> None:
    runs = [
        with_cpu(add("+algo=sac env=hopper", seed, 1e3), f"cpu{seed // 2}", f"host{seed // 2}") for seed in range(3)
    ]
    table = machines(runs)
    assert [row[:3] for row in table.rows] == [
        ["host0: cpu0, 8 cores", "2", "sac Hopper-v4 (seeds 0-1)"],
        ["host1: cpu1, 8 cores", "1", "sac Hopper-v4 (seeds 2)"],
    ]
    assert table.rows[0][3:] == ["2026-05-06", "abcdef0", "1.00"]
    assert core_hours(runs) == 1.5
    assert span(["2026-05-07", "2026-05-06", ""]) == "2026-05-06 to 2026-05-07"


def test_a_second_machine_joins(study_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another person's study of the same settings: seed 1 on another host; the report says which is whose."""
    (_, second) = runs_of(f"{SAC} seed=[0,1]")
    result = second.finished_result()
    made = result.provenance.model_copy(update={"cpu": "Other CPU", "cores": 64})
    change_json(second.path / "status.json", host="elsewhere")
    second.write_result(result.model_copy(update={"provenance": made}))
    shutil.rmtree(PACK)
    second.path.rename("second")
    pack(["study=paper", "to=ours"])
    shutil.rmtree(OUTPUTS / "paper")
    second.path.parent.mkdir(parents=True)
    Path("second").rename(second.path)
    pack(["study=paper", "to=theirs"])
    shutil.rmtree(OUTPUTS)
    unpack(["from=ours,theirs"])
    capsys.readouterr()
    report(["study=paper", "algo=sac", "label=fp32*", "wandb.mode=disabled"])
    rows = (OUTPUTS / "paper/report/machines.csv").read_text().splitlines()
    assert len(rows) == 3
    (other,) = [row for row in rows if row.startswith('"elsewhere: Other CPU, 64 cores"')]
    assert "sac Pendulum-v1 (seeds 1)" in other
    page = (OUTPUTS / "paper/report/index.html").read_text()
    assert "elsewhere: Other CPU, 64 cores (1)" in page


class TestOwnFindings:
    def test_losses_of_the_papers_protocol(self, add: Add) -> None:
        study = study_of(add, TWO, ptdq=1.0, ptsq=1.0)
        theirs = []
        for words in TWO:
            whole = [1020.0, 1120.0, 1220.0]
            for method, share in (("", 0.9), ("+compress=ptdq", 0.6), ("+compress=ptsq", 0.5)):
                scores = [20 + share * (score - 20) for score in whole]
                theirs += three_seeds(add, f"{words} {method} protocol=paper", scores, [0.9 * w for w in whole])
        (finding, *_) = own.own_findings(study, Study(theirs))
        assert finding.verdict == HOLDS
        assert "fp32 scored its way keeps 90.0 %, int8 made and scored its way keeps 55.0 %" in finding.evidence
        (without, *_) = own.own_findings(study, Study([]))
        assert (without.verdict, without.evidence) == (UNKNOWN, "no task has 3 seeds quantised by both protocols")

    def test_time_and_size(self, add: Add) -> None:
        study = study_of(add, TWO, best=5000.0, ptsq=0.99)
        times_of(study, {"fp32": 10.0, "ptsq": 12.0}, {"fp32": 3.0, "ptsq": 0.5})
        found = {finding.claim: finding for finding in own.own_findings(study, Study([]))}
        assert found["Compression pays in time, in ONNX Runtime"].verdict == FAILS
        assert found["Compression pays in time, as native C"].verdict == HOLDS
        faster = found["As native C an int8 policy acts 10 times faster than fp32 in ONNX Runtime"]
        assert faster.verdict == HOLDS
        assert faster.evidence.startswith("20.000 [20.000, 20.000] times faster")
        small = found["A policy of 5 % of the bytes keeps 97 % of the return"]
        assert small.verdict == UNKNOWN
        for cell in study.cells.values():
            size = 900 if cell.variant == "fp32" else 30
            cell.results[:] = [result.model_copy(update={"weight_bytes": size}) for result in cell.results]
        small = own.own_findings(study, Study([]))[-1]
        assert small.verdict == HOLDS
        assert "ptsq has 3.3 % and keeps 0.99" in small.evidence


def test_a_cell_is_timed_on_the_seeds_that_were_measured(add: Add) -> None:
    study = study_of(add, TWO[:1])
    cell = study.cells[HOPPER, "fp32"]
    cell.measurements[:] = [None, Measurement(infer=MeasuredTimes(onnx_run_p50_us=8.0)), None]
    assert cell.values("infer.onnx_run_p50_us") == [8.0]
    assert np.isclose(cell.mean("infer.onnx_run_p50_us") or 0, 8.0)
