"""A pyannote pipeline in a folder, as the real one comes; random weights, but for its hearing."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.transcribe import extra

_EMBEDDING, _PLDA = 16, 8


def build(folder: Path) -> Path:
    """Writes the pipeline into `folder`; returns it.

    Its segmentation is that of WhisperX's wheel; who speaks is told by an untrained model.
    """
    extra.whisperx()
    # Not imported by name: what is typed of them differs with what is installed.
    torch: Any = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models: Any = importlib.import_module("pyannote.audio.models.embedding")
        task: Any = importlib.import_module("pyannote.audio.core.task")
        lightning: Any = importlib.import_module("lightning.pytorch")
    for name in ("segmentation", "embedding", "plda"):
        (folder / name).mkdir(parents=True)
    found = importlib.util.find_spec("whisperx")
    assert found is not None
    assert found.origin is not None
    shutil.copy(
        Path(found.origin).parent / "assets" / "pytorch_model.bin",
        folder / "segmentation" / "pytorch_model.bin",
    )
    torch.manual_seed(1)
    model = models.XVectorSincNet(dimension=_EMBEDDING)
    model.specifications = task.Specifications(
        problem=task.Problem.REPRESENTATION, resolution=task.Resolution.CHUNK, duration=5.0,
        classes=["a"],
    )  # fmt: skip
    model.build()
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "embedding" / "pytorch_model.bin")
    drawn = np.random.default_rng(1)
    np.savez(
        folder / "plda" / "xvec_transform.npz",
        mean1=np.zeros(_EMBEDDING), mean2=np.zeros(_PLDA),
        lda=drawn.normal(size=(_EMBEDDING, _PLDA)),
    )  # fmt: skip
    np.savez(
        folder / "plda" / "plda.npz",
        mu=np.zeros(_PLDA), tr=np.eye(_PLDA) + 0.01 * drawn.normal(size=(_PLDA, _PLDA)),
        psi=np.linspace(2, 1, _PLDA),
    )  # fmt: skip
    config = {
        "dependencies": {"pyannote.audio": "4.0.0"},
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                "clustering": "VBxClustering",
                "segmentation": "$model/segmentation",
                "segmentation_batch_size": 8,
                "embedding": "$model/embedding",
                "embedding_batch_size": 8,
                "embedding_exclude_overlap": True,
                "plda": "$model/plda",
            },
        },
        "params": {
            "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
            "segmentation": {"min_duration_off": 0.0, "threshold": 0.5},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
