"""Training jobs."""

# ruff: noqa: E501 - one case, one line, or two

from dataclasses import replace

import pytest

from edged.domain.nn.spec import Conv2d, Dense, Flatten, MaxPool2d, Relu
from edged.domain.topology import Augment, Backbone, BackboneFile, Cosine, Deploy, Sampling
from tests.support.valid_topology import problems, warnings, with_stream, with_training


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_training(stream="x"), "training[0].stream", 'no stream is called "x"'),
        (with_training(model=(Dense(2),)), "training[0].model[0]", "dense takes one axis, not 8×8×1; put flatten before it"),
        (with_training(model=(Flatten(), Conv2d(1, (3, 3)), Dense(2))), "training[0].model[1]",
         "conv2d takes [height, width, channels], not 64"),
        (with_training(model=(Flatten(), Dense(3))), "training[0].model[1]", '3 units for the 2 labels of stream "tiles"'),
        (with_training(model=(Flatten(), Dense(2), Relu())), "training[0].model[2]",
         "the model ends with a dense layer, one unit for each label"),
        (with_training(class_weights=(1.0, 2.0, 3.0)), "training[0].class_weights", '3 weights for the 2 labels of stream "tiles"'),
        (with_training(class_weights=(0.0, 0.0)), "training[0].class_weights", "all are 0: nothing would be learned"),
        (with_training(class_weights=(1.0, 2.0), loss="mean_squared_error", model=(Flatten(), Dense(64))), "training[0].class_weights",
         "mean_squared_error knows no classes"),
        (with_training(loss="mean_squared_error"), "training[0].model[1]",
         "with mean_squared_error the model gives its input back: 64 numbers for 8×8×1"),
        (with_stream(labels=()), "streams.tiles.labels", "the training job needs labels to learn"),
        (with_training(epochs=3, schedule=Cosine(warmup=4)), "training[0].schedule", "a warm-up of 4 does not end within 3 epochs"),
        (with_training(augment=Augment(shift=8)), "training[0].augment.shift", "it moves samples of 8×8×1 out of sight"),
        (with_training(stream="climate", model=(Dense(1),), augment=Augment("both")), "training[0].augment",
         "only [height, width, channels] and [length, channels] can be varied, not 6"),
        (with_training(model=(Flatten(), Dense(2, "relu"))), "training[0].model[1]",
         "the last layer has no activation: softmax follows it by itself"),
        (with_training(live_epoch=100), "training[0].live_epoch",
         "an epoch of 100 samples is shorter than one batch of 128"),
        (with_training(sampling=Sampling("uniform", hit_share=0.5)), "training[0].sampling.hit_share", "uniform does not use it"),
        (with_training(sampling=Sampling("stratified", hit_share=1.0)), "training[0].sampling.hit_share",
         "with all draws from the cache nothing would ever be fetched"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_once_at_its_place(topology, path, message):
    assert problems(topology) == [(path, message)]


@pytest.mark.parametrize("hit_share", [None, 0.0, 0.99])
def test_stratified_sampling_accepts_any_share_of_hits_below_one(hit_share):
    assert problems(with_training(sampling=Sampling("stratified", hit_share))) == []


@pytest.mark.parametrize(
    ("topology", "path", "message"),
    [
        (with_training(deploy=Deploy("int8"), test_samples=0), "training[0].deploy.format",
         "without held-out samples to calibrate by, the companion gets float32 models"),
    ],
)  # fmt: skip
def test_what_works_but_is_probably_not_intended_is_a_warning(topology, path, message):
    assert problems(topology) == []
    assert warnings(topology) == [(path, message)]


BACKBONE = Backbone("features.tflite", file=BackboneFile((8, 8, 1), (5,), "0" * 64))


def test_a_model_on_a_backbone_takes_its_features():
    assert problems(with_training(backbone=BACKBONE, model=(Dense(2),))) == []
    ((where, message),) = problems(
        with_training(backbone=BACKBONE, model=(MaxPool2d((2, 2), (2, 2)), Flatten(), Dense(2)))
    )
    assert where == "training[0].model[0]"
    assert message == "max_pool2d takes [height, width, channels], not 5"


def test_the_model_is_not_checked_if_the_backbones_file_was_not_looked_up():
    unread = replace(BACKBONE, file=None)
    assert problems(with_training(backbone=unread, model=(MaxPool2d((2, 2), (2, 2)), Dense(2)))) == []


@pytest.mark.parametrize(("changes", "path", "message"), [
    ({"backbone": replace(BACKBONE, file=BackboneFile((28, 28, 1), (5,), ""))}, "training[0].backbone.model",
     "it takes samples of 28×28×1, the stream has 8×8×1"),
    ({"augment": Augment(shift=2)}, "training[0].backbone",
     "features are computed once for each sample, so samples cannot be augmented"),
    ({"deploy": Deploy("int8")}, "training[0].deploy.format",
     "this version does not make int8 models with a backbone yet"),
])  # fmt: skip
def test_settings_that_do_not_work_with_a_backbone_are_refused(changes, path, message):
    assert problems(with_training(**{"backbone": BACKBONE, "model": (Dense(2),), **changes})) == [(path, message)]
