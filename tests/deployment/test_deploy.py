"""Deploying: verified by hash over the API before anything is recorded, the incumbent back on any failure."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_assets.deployment.decide import decide
from gpu_assets.deployment.deploy import deploy
from gpu_assets.deployment.records import Decision, Deployment
from gpu_assets.errors import DeploymentRefused, ServiceError
from gpu_assets.evaluation.records import EvaluationItem
from gpu_assets.evaluation.sets import build_evaluation_set
from gpu_assets.ranking.rank import rank_scores
from resources.deployed import deployed_folder
from resources.workspace import Workspace
from tests.fakes import ScriptedServer
from tests.values import COMPARISON, make_checkpoint, make_score

Deploy = Callable[..., Deployment]


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
def item() -> EvaluationItem:
    return build_evaluation_set(1).items[0]


@pytest.fixture
def deploy_step(workspace: Workspace, server: ScriptedServer, item: EvaluationItem) -> Deploy:
    """Deploys a new checkpoint at a step, with a score of its own."""

    def run(step: int, correct: int = 50) -> Deployment:
        checkpoint = make_checkpoint(workspace, step, sequence=step)
        score = make_score(step, correct, weights=checkpoint.weights_sha256)
        decision = Decision(True, "it is better")
        return deploy(score, checkpoint, checkpoint.folder, decision, item, server=server, workspace=workspace)

    return run


def test_what_the_server_says_is_recorded_with_the_question_and_the_answer(
    deploy_step: Deploy, workspace: Workspace, server: ScriptedServer, item: EvaluationItem
) -> None:
    deployment = deploy_step(5)
    assert deployment.weights_sha256 == server.weights
    assert Path(deployment.served_path) == server.served
    assert (deployment.question, deployment.answer) == (item.question, "an answer")
    assert item.golden_answer.endswith(f"= {deployment.expected}")
    assert deployment.decided_at <= deployment.verified_at
    assert deployment.checkpoint_to_verified_s >= deployment.decision_to_verified_s >= 0
    assert Deployment.read(workspace) == deployment


def test_nothing_is_recorded_while_the_server_is_asked(
    deploy_step: Deploy, workspace: Workspace, server: ScriptedServer
) -> None:
    seen: list[Deployment | None] = []
    server.on_request = lambda: seen.append(Deployment.read(workspace))
    deploy_step(5)
    assert seen and set(seen) == {None}


def break_nothing_loaded(server: ScriptedServer, workspace: Workspace) -> None:
    server.serves_instead = make_checkpoint(workspace, 77, sequence=77).folder


def break_empty(server: ScriptedServer, workspace: Workspace) -> None:
    server.text = " \n"


def break_silent(server: ScriptedServer, workspace: Workspace) -> None:
    server.fails_to_answer = True


def break_other_answerer(server: ScriptedServer, workspace: Workspace) -> None:
    server.answers_from = "f" * 64


BREAKS = {
    "serves other weights": (break_nothing_loaded, DeploymentRefused, "serves weights .* after the flip, wanted"),
    "answers nothing": (break_empty, DeploymentRefused, r"answered ' \\n' from weights"),
    "answers from other weights": (break_other_answerer, DeploymentRefused, "from weights ffffffff"),
    "does not answer": (break_silent, ServiceError, "no answer"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_on_any_failure_the_incumbent_is_served_again_and_stays_recorded(
    name: str, deploy_step: Deploy, workspace: Workspace, server: ScriptedServer
) -> None:
    spoil, error, sentence = BREAKS[name]
    incumbent = deploy_step(5)
    spoil(server, workspace)
    with pytest.raises(error, match=sentence):
        deploy_step(9)
    assert server.reloads[-1] == Path(incumbent.served_path)
    assert Deployment.read(workspace) == incumbent


def test_a_folder_that_the_server_refuses_leaves_the_incumbent_served(
    deploy_step: Deploy, workspace: Workspace, server: ScriptedServer
) -> None:
    incumbent = deploy_step(5)
    refused = make_checkpoint(workspace, 9, sequence=9)
    server.refuses = {refused.folder}
    score = make_score(9, 60, weights=refused.weights_sha256)
    item = build_evaluation_set(1).items[0]
    with pytest.raises(ServiceError, match=f"{refused.name} is refused"):
        deploy(score, refused, refused.folder, Decision(True, ""), item, server=server, workspace=workspace)
    assert server.served == Path(incumbent.served_path)
    assert Deployment.read(workspace) == incumbent


@pytest.mark.parametrize("name", BREAKS)
def test_a_first_deployment_that_fails_is_not_left_served_and_records_nothing(
    name: str, deploy_step: Deploy, workspace: Workspace, server: ScriptedServer
) -> None:
    spoil, error, _ = BREAKS[name]
    spoil(server, workspace)
    with pytest.raises(error):
        deploy_step(5)
    assert Deployment.read(workspace) is None
    assert not deployed_folder(workspace).exists()
    assert len(server.reloads) == 1
    assert server.served is None


def test_a_first_deployment_that_fails_leaves_what_a_person_had_served(
    deploy_step: Deploy, workspace: Workspace, server: ScriptedServer
) -> None:
    server.served = by_hand = make_checkpoint(workspace, 3, sequence=3).folder
    server.text = ""
    with pytest.raises(DeploymentRefused):
        deploy_step(5)
    assert server.served == by_hand
    assert Deployment.read(workspace) is None


def test_the_first_error_is_raised_where_the_incumbent_is_refused_as_well(
    deploy_step: Deploy, workspace: Workspace, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    incumbent = deploy_step(5)
    server.text, server.refuses = "", {Path(incumbent.served_path)}
    with pytest.raises(DeploymentRefused, match="checkpoint-9-"):
        deploy_step(9)
    assert f"{incumbent.checkpoint} could not be served again, so nothing is served" in caplog.text
    assert server.served is None
    assert Deployment.read(workspace) == incumbent


def test_the_first_error_is_raised_where_the_server_does_not_undeploy_either(
    deploy_step: Deploy, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.text, server.fails_to_undeploy = "", True
    with pytest.raises(DeploymentRefused, match="checkpoint-5-"):
        deploy_step(5)
    assert "may go on with a model that was not verified: no connection" in caplog.text


def test_a_restart_does_not_deploy_again_unless_the_server_lost_the_model(
    deploy_step: Deploy, workspace: Workspace, server: ScriptedServer
) -> None:
    deployment = deploy_step(5)
    entries = rank_scores([make_score(5, 50, weights=deployment.weights_sha256)], COMPARISON)
    recorded = Deployment.read(Workspace(workspace.home))
    assert not decide(entries, recorded, server.info().weights_sha256).deploy
    server.served = None
    assert decide(entries, recorded, server.info().weights_sha256).deploy
