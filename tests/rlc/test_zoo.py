"""The zoo: whole policies with true cards, taken by the commands, and made again from packs and runs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compression.artifact import check_artifact
from compression.files import ONNX_FILE
from compression.runtime import OnnxPolicy
from measure.returns import evaluate
from measure.video import choose_backend
from rlc import zoo
from rlc.compress import compress
from rlc.evaluate import evaluate_run
from rlc.export import export
from rlc.packing.zoo import ZOO, card_of, given_policy, read_card, zoo_names
from tests.helpers import POLICIES, ROOT
from trainers.envs.make import env_factory, spec_of
from trainers.errors import UserError

NAMES = zoo_names()
PACK = ROOT / "outputs" / "paper" / "pack"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty zoo, whose policies play two episodes and are not filmed."""
    folder = tmp_path / "zoo"
    monkeypatch.setattr("rlc.packing.zoo.ZOO", folder)
    monkeypatch.setattr("rlc.zoo.ZOO", folder)
    monkeypatch.setattr("rlc.zoo.EPISODES", 2)
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    return folder


class TestCommittedPolicies:
    @pytest.mark.parametrize("name", NAMES)
    def test_each_gives_its_golden_actions(self, name: str) -> None:
        contract = check_artifact(given_policy(f"zoo:{name}"))
        card = read_card(name)
        assert (contract["environment"]["id"], contract["algorithm"]) == (card.env_id, card.algo)
        assert contract["compression"]["method"] == "fp32"
        assert card.return_mean > max(card.random_return_mean, card.zero_return_mean)

    def test_a_card_says_what_its_policy_returns(self) -> None:
        card = read_card("sac-hopper")
        spec = spec_of(card.env_id)
        act = OnnxPolicy(given_policy("zoo:sac-hopper") / ONNX_FILE)
        played = evaluate(act, env_factory(spec), spec, episodes=2, seed=card.eval_seed)
        assert abs(played.mean - card.return_mean) < 4 * card.return_std

    def test_all_of_them_are_small(self) -> None:
        assert len(NAMES) >= 7
        assert sum(path.stat().st_size for path in ZOO.rglob("*") if path.is_file()) < 12e6


class TestNames:
    def test_an_unknown_name_is_one_line_with_the_names(self) -> None:
        with pytest.raises(
            UserError, match=r"zoo:sac-hoper: no such policy; did you mean sac-hopper\?; allowed: ddpg-"
        ):
            given_policy("zoo:sac-hoper")
        with pytest.raises(UserError, match="no such policy"):
            given_policy("zoo:../zoo/sac-hopper")

    def test_other_words_are_paths(self) -> None:
        assert given_policy("a/b.zip") == Path("a/b.zip")
        assert card_of("a/b.zip") is None

    def test_a_damaged_artifact_is_made_again(self) -> None:
        folder = given_policy("zoo:trpo-hopper")
        whole = (folder / ONNX_FILE).read_bytes()
        (folder / ONNX_FILE).write_bytes(b"torn")
        assert given_policy("zoo:trpo-hopper") == folder
        assert (folder / ONNX_FILE).read_bytes() == whole


class TestCommands:
    def test_compress_and_evaluate_beside_the_policy(self, capsys: pytest.CaptureFixture[str]) -> None:
        compress(["policy=zoo:trpo-hopper", "+compress=ptsq", "eval.episodes=2", "to=small"])
        shown = re.search(r"Hopper-v4, return (\S+) ", capsys.readouterr().out)
        assert shown is not None
        assert float(shown[1]) == pytest.approx(read_card("trpo-hopper").return_mean, rel=0.02)
        evaluate_run(["policy=small", "baseline=zoo:trpo-hopper", "episodes=2", "noise=0.01", "delay=1", "drop=0.1"])
        out = capsys.readouterr().out
        assert "behind disturbed sensors: noise 1 %, delay 1 step, 10 % dropped" in out
        rows = [line.split()[1] for line in out.splitlines() if line.strip().startswith("Hopper")]
        assert rows == ["fp32", "ptsq", "random", "zero", "fp32", "ptsq"]
        for wrong, reason in [
            (["policy=small", "noise=0.1"], "add baseline="),
            (["policy=small", "baseline=small"], "is compressed"),
            (["policy=small", "baseline=zoo:td3-ant"], "a policy for Hopper-v4"),
            (["policy=zoo:td3-ant", "baseline=zoo:td3-ant"], "is in float32 itself"),
            (["policy=small", "run=small"], "give one of them"),
        ]:
            with pytest.raises(UserError, match=reason):
                evaluate_run(wrong)

    def test_export_copies_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        export(["policy=zoo:trpo-hopper", "to=deployed"])
        assert capsys.readouterr().out == "deployed: trpo for Hopper-v4, fp32\n"
        check_artifact(Path("deployed"))

    def test_export_as_c_has_the_return_of_the_card(self) -> None:
        export(["policy=zoo:trpo-hopper", "target=c", "to=c"])
        card = read_card("trpo-hopper")
        readme = Path("c/README.md").read_text()
        assert f"{card.return_mean:.1f} +- {card.return_std:.1f} over 100 episodes" in readme


class TestAdding:
    def test_the_best_of_runs_is_chosen_and_a_worse_one_left(self, own_zoo: Path) -> None:
        runs = Path("runs")
        for name in ("ppo-hopper", "worse"):
            shutil.copytree(POLICIES / "ppo-hopper", runs / name)
        result = runs / "worse" / "result.json"
        result.write_text(json.dumps(json.loads(result.read_text()) | {"return_mean": 1000.0}))
        zoo.zoo([f"add={runs}"])
        assert [path.name for path in own_zoo.iterdir()] == ["ppo-hopper"]
        card = read_card("ppo-hopper")
        assert (card.candidates, card.seed, card.episodes, card.curve) == (2, 0, 2, [])
        assert card.recorded_return_mean == pytest.approx(2097.155267)
        before = (own_zoo / "ppo-hopper" / "card.json").read_bytes()
        zoo.zoo([f"add={runs / 'worse'}"])
        assert (own_zoo / "ppo-hopper" / "card.json").read_bytes() == before

    def test_a_pack_gives_its_policy_and_curve(self, own_zoo: Path) -> None:
        shutil.copytree(PACK / "Hopper-v4", Path("pack") / "Hopper-v4")
        zoo.zoo(["add=pack"])
        card = read_card("trpo-hopper")
        steps, returns = np.array(card.curve).T
        assert card.candidates >= 10
        assert steps[-1] == card.total_steps
        assert returns[-1] > 3000
        check_artifact(given_policy("zoo:trpo-hopper"))

    def test_a_policy_is_filmed_where_it_can_be(
        self, own_zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("measure.video.ANIMATION_SECONDS", 0.5)
        shutil.copytree(POLICIES / "ppo-hopper", Path("runs") / "one")
        film = own_zoo / "ppo-hopper" / "film.webp"
        zoo.zoo(["add=runs"])
        assert not film.exists()
        assert "ppo-hopper: no video: MUJOCO_GL=nonsense cannot render Hopper-v4 here" in capsys.readouterr().err
        monkeypatch.delenv("MUJOCO_GL")
        try:
            choose_backend(spec_of("Hopper-v4"))
        except UserError:
            pytest.skip("nothing renders here")
        zoo.zoo(["add=runs"])
        with Image.open(film) as picture:
            assert (picture.format, picture.size) == ("WEBP", (160, 160))
            assert getattr(picture, "n_frames", 1) > 1

    def test_a_policy_without_skill_is_none(self, own_zoo: Path) -> None:
        shutil.copytree(POLICIES / "ppo-hopper", Path("runs") / "one")
        result = Path("runs/one/result.json")
        result.write_text(json.dumps(json.loads(result.read_text()) | {"return_mean": 100.0}))
        zoo.zoo(["add=runs"])
        assert not own_zoo.exists()

    def test_a_folder_without_runs_is_refused(self, own_zoo: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="holds no finished fp32 run"):
            zoo.zoo([f"add={tmp_path}"])
