"""A study whose one run was really trained, on a few phantoms, for tests that score."""

import json

import numpy as np
import pandas as pd
from examples import phantom_patch
from PIL import Image

from her2lib.networks import checkpoint, models, recipes, train
from her2lib.study import cohort, config, fingerprints, making

SIDE_PX = 32


def trained_study(folder):
    """(run, predictions): study "mine" of 48 patches of 8 slides, run as notebook 02 makes it.

    Its files lie where files.REPORTS and files.CACHE say, its patches in folder/data.
    """
    write_cohort(folder / "data")
    file = making.make_study(
        folder / "data", name="mine", weights="none", side_px=SIDE_PX, epochs=1
    )
    run, predictions = finish_run(config.load_study(file))
    (run / "done.json").write_text(json.dumps({"parameters": {"study_name": str(file)}}))
    return run, predictions


def write_cohort(folder):
    """Writes a manifest of 48 patches of 8 slides."""
    folder.mkdir()
    rows = []
    for i in range(48):
        Image.fromarray(phantom_patch(i, score=i % 4)).save(folder / f"{i}.png")
        rows.append({"path": f"{i}.png", "score": i % 4, "slide": f"S{i // 6}", "mpp": 1.0})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)


def finish_run(study):
    """(folder, training predictions) of the first run of a study, trained for one epoch."""
    axes = study.run()
    data = cohort.prepare_cohort(study, side_px=SIDE_PX, progress=False)
    training = data.patches.take(np.flatnonzero(data.table["set"] == "train"))
    net = models.create("resnet18", side_px=SIDE_PX, weights="none")
    recipe = recipes.recipe("as_presented", network="resnet18", epochs=1)
    fit = train.fit(net, training, None, seed=0, progress=False, **recipe)
    probabilities = train.predict(fit.net, training.images)
    predictions = train.prediction_table(probabilities, training, run=axes["run"], subset="train")
    run = checkpoint.save_run(
        study.folder_of(axes["run"]),
        net=fit.net,
        fit=fit,
        predictions=predictions,
        parameters=axes,
        fingerprints={"data": fingerprints.data_fingerprint(study)},
    )
    return run, predictions
