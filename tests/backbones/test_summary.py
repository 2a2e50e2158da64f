import json

import click
import pytest
from click.testing import CliRunner

from featurestore.errors import InvalidInput

pytest.importorskip("keras")

from featurestore.backbones.summary import SummaryOptions, summarize
from featurestore_cli.backbones import summary as command

SIZE = (150, 150)


def run(*arguments):
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_vgg16_with_its_top_is_the_reference():
    found = summarize("vgg16", SummaryOptions(top=True))
    assert found.size == (224, 224)
    assert found.counts.total == 138_357_544
    assert len(found.layers) == 23
    assert [row.name for row in found.layers[-4:]] == ["flatten", "fc1", "fc2", "predictions"]
    assert found.layers[0].output_shape == (None, 224, 224, 3)
    assert found.layers[-1].parameters == 4_097_000


def test_vgg16_base_is_the_reference():
    found = summarize("vgg16", SummaryOptions(size=SIZE))
    assert found.counts.total == found.counts.trainable == 14_714_688
    assert found.layers[-1].output_shape == (None, 4, 4, 512)
    sides = [row.output_shape[1] for row in found.layers if row.kind == "MaxPooling2D"]
    assert sides == [75, 37, 18, 9, 4]
    first = found.layers[1]
    assert (first.index, first.name, first.kind) == (1, "block1_conv1", "Conv2D")
    assert (first.input_shape, first.output_shape) == ((None, 150, 150, 3), (None, 150, 150, 64))
    assert first.parameters == 1_792
    assert sum(row.parameters for row in found.layers) == found.counts.total


def test_vgg16_with_a_head_is_the_reference():
    found = summarize("vgg16", SummaryOptions(size=SIZE, head=True))
    assert found.head_counts.total == 16_812_353
    assert found.head_counts.trainable == 2_097_665
    assert found.head_counts.non_trainable == 14_714_688
    assert found.head_unfrozen_counts.trainable_arrays == 30
    assert found.head_counts.trainable_arrays == 4
    assert [row.kind for row in found.head] == ["Flatten", "Dense", "Dense"]
    assert [row.index for row in found.head] == [19, 20, 21]


def test_unfreezing_block5_is_the_reference():
    found = summarize("vgg16", SummaryOptions(size=SIZE, unfreeze=["block5"]))
    assert found.counts.trainable == 7_079_424
    assert found.counts.non_trainable == 7_635_264
    trained = [row.name for row in found.layers if row.trainable]
    assert trained == ["block5_conv1", "block5_conv2", "block5_conv3"]
    head = summarize("vgg16", SummaryOptions(size=SIZE, unfreeze=["block5"], head=True))
    assert head.head_counts.trainable == 7_079_424 + 2_097_665


def test_an_unfreeze_that_matches_nothing_is_refused():
    with pytest.raises(InvalidInput, match="block6"):
        summarize("vgg16", SummaryOptions(size=(32, 32), unfreeze=["block5", "block6"]))


def test_names_to_unfreeze_mean_what_they_mean_in_fine_tuning():
    # Of ResNet's conv1_conv and conv1_bn; "conv1_b" is the start of a name, but of no whole word.
    with pytest.raises(InvalidInput, match="conv1_b"):
        summarize("resnet50", SummaryOptions(size=(32, 32), unfreeze=["conv1_b"]))
    found = summarize("resnet50", SummaryOptions(size=(32, 32), unfreeze=["conv1*"]))
    assert [row.name for row in found.layers if row.trainable] == ["conv1_conv", "conv1_bn"]


def test_a_head_and_a_top_together_are_refused():
    with pytest.raises(InvalidInput, match="top"):
        summarize("vgg16", SummaryOptions(top=True, head=True))


@pytest.mark.parametrize("backbone", ["mobilenet", "convnext_tiny", "mobilenet_v3_small"])
def test_layers_add_up_to_the_total(backbone):
    found = summarize(backbone, SummaryOptions(size=(32, 32)))
    assert sum(row.parameters for row in found.layers) == found.counts.total
    assert found.default_layer in [row.name for row in found.layers]


def test_the_command_prints_the_table():
    lines = run("vgg16", "--size", "150", "--unfreeze", "block5").splitlines()
    assert lines[0] == "vgg16 at 150x150, without its top; default cut layer: block5_pool"
    assert lines[1].split() == ["index", "layer", "input", "output", "parameters", "trained"]
    assert len(lines) == 2 + 19 + 1 + 5
    assert lines[17].split()[:2] == ["15", "block5_conv1"]
    assert lines[17].split()[-2:] == ["2,359,808", "yes"]
    assert "(9, 9, 512)" in lines[17]
    assert lines[-4].split() == ["trainable", "7,079,424"]
    assert lines[-3].split() == ["non-trainable", "7,635,264"]
    assert not any("\x1b" in line for line in lines)


def test_the_command_prints_json():
    found = json.loads(run("vgg16", "--size", "150", "--head", "--json"))
    assert found["counts"]["total"] == 14_714_688
    assert found["head_counts"]["trainable"] == 2_097_665
    assert found["head_counts"]["non_trainable"] == 14_714_688
    assert found["head_unfrozen_counts"]["trainable_arrays"] == 30
    assert found["layers"][-1]["output_shape"] == [None, 4, 4, 512]
    assert found["size"] == [150, 150]


def test_the_command_shows_one_table_for_base_and_head():
    text = run("mobilenet", "--size", "32x64", "--head")
    assert "mobilenet at 32x64" in text
    assert "conv_pw_13_relu" in text
    assert "flatten" in text
    assert "before freezing, trainable arrays" in text


def test_the_command_can_be_added_to_a_group():
    assert isinstance(command, click.Command)
    assert command.name == "summary"
