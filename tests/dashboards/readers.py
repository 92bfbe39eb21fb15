"""What dashboards hold of runs, read by their vendors' own code.

Each function returns by name of a run its points, `{column: [(round, value), ...]}`, its settings
as text, and the names of its pictures.
"""

import json
import os
import struct
import time
from pathlib import Path

_BLOCK = 32768  # A record of `.wandb` files does not cross the end of one.


def tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = {}
    for place in {path.parent for path in folder.rglob("events.out.tfevents.*")}:
        read = EventAccumulator(str(place), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
        read.Reload()
        points = {
            name: [(event.step, event.value) for event in read.Scalars(name)]
            for name in read.Tags()["scalars"]
        }
        (text,) = read.Tensors("config/text_summary")
        settings = json.loads(text.tensor_proto.string_val[0])
        result[place.name] = points, _texts(settings), set(read.Tags()["images"])
    return result


def wandb(folder: Path):
    from wandb.proto import wandb_internal_pb2 as proto

    result = {}
    for path in folder.glob("offline-run-*/*.wandb"):
        points, pictures = {}, set()
        for record in _whole(path, proto.Record.FromString):
            if record.HasField("run"):
                run = record.run
            for item in record.history.item:
                name, *rest = item.nested_key or [item.key]
                if rest:  # A number has one key.
                    pictures.add(name)
                elif not name.startswith("_"):
                    point = record.history.step.num, json.loads(item.value_json)
                    points.setdefault(name, []).append(point)
        assert run.display_name not in result, "in two folders"
        settings = {item.key: json.loads(item.value_json) for item in run.config.update}
        result[run.display_name] = points, _texts(settings), pictures
    return result


def mlflow(folder: Path):
    from mlflow.tracking import MlflowClient

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(folder.as_uri())
    result = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            assert run.info.run_name not in result, "in two runs"
            points = {
                name: [
                    (point.step, point.value)
                    for point in client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            }
            files = {Path(one.path).stem for one in client.list_artifacts(run.info.run_id)}
            result[run.info.run_name] = points, run.data.params, files
    return result


def _whole(path: Path, parse):
    """The records of a run, once the last one is there: another process writes it."""
    for _ in range(200):
        records = [parse(content) for content in _records(path.read_bytes())]
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def _records(content: bytes):
    """The records of a file in the format of LevelDB's log, which begins with seven bytes more."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if _BLOCK - at % _BLOCK < 7:
            at += _BLOCK - at % _BLOCK
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # Whole, or the last part of one.
            yield whole
            whole = b""


def _texts(settings):
    return {name: str(value) for name, value in settings.items()}
