"""Publish a version in MLflow's registry with its run, its accuracy and the same files, in a database on this disk."""

import tempfile
from pathlib import Path

import mlflow
from publishing import folder, measure

uri = f"sqlite:///{folder()}/mlflow.db"
client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
experiment = client.create_experiment("digits", artifact_location=(folder() / "artifacts").as_uri())
client.create_registered_model("keras")


def publish(number: int, files: dict[str, bytes]) -> None:
    run = client.create_run(experiment, run_name=f"run-{number}")
    with tempfile.TemporaryDirectory(dir=folder()) as local:
        for name, content in files.items():
            Path(local, name).write_bytes(content)
        client.log_artifacts(run.info.run_id, local, "model")
    client.log_metric(run.info.run_id, "test_accuracy", 0.98)
    client.set_terminated(run.info.run_id)
    client.create_model_version("keras", f"{run.info.artifact_uri}/model", run.info.run_id)


measure(publish)
