"""Reference networks: published sizes, shapes, gradients, seeds."""

import pytest
import torch
from torch import nn

from drivetrain import nets
from drivetrain.base.errors import DrivetrainError

PUBLISHED = {
    "resnet50": (25_557_032, {}),
    "resnet18": (11_689_512, {}),
    "vgg16": (138_357_544, {}),
    "densenet121": (7_978_856, {}),
    "mobilenet_v1": (4_231_976, {}),
    "resnet110": (1_727_962, {}),
    "resnet20": (269_722, {}),
    "lenet5": (61_706, {}),
    "lstm_language_model": (4_653_200, {}),
    "mlp": (269_322, {}),
}

# name -> (options, input shape, output shape); the sizes are the smallest that go through
IMAGE_NETS = {
    "mlp": ({}, (2, 1, 28, 28), (2, 10)),
    "lenet5": ({"image_size": 28}, (2, 1, 28, 28), (2, 10)),
    "small_cnn": ({"in_channels": 1}, (2, 1, 28, 28), (2, 10)),
    "resnet18": ({"num_classes": 7}, (2, 3, 64, 64), (2, 7)),
    "resnet50": ({"num_classes": 7}, (2, 3, 64, 64), (2, 7)),
    "resnet20": ({}, (2, 3, 32, 32), (2, 10)),
    "resnet110": ({}, (2, 3, 32, 32), (2, 10)),
    "densenet121": ({"num_classes": 7}, (2, 3, 64, 64), (2, 7)),
    "densenet_small": ({"in_channels": 1}, (2, 1, 28, 28), (2, 10)),
    "mobilenet_v1": ({"num_classes": 7, "in_channels": 1}, (2, 1, 64, 64), (2, 7)),
}


def parameter_count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_count_is_the_published_one(name: str) -> None:
    count, options = PUBLISHED[name]
    with torch.device("meta"):
        assert parameter_count(nets.build(name, **options)) == count


@pytest.mark.parametrize("name", sorted(IMAGE_NETS))
def test_image_network_shapes_and_gradients(name: str) -> None:
    options, shape, expected = IMAGE_NETS[name]
    net = nets.build(name, seed=0, **options)
    logits = net(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    assert logits.shape == expected
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_vgg16_maps_imagenet_images_to_classes() -> None:
    """On the meta device: 138 M weights would take half a gigabyte."""
    with torch.device("meta"):
        assert nets.vgg16()(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
        assert nets.resnet50()(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


def test_language_model_unrolls_in_pieces_as_in_one() -> None:
    net = nets.build("lstm_language_model", seed=0, num_classes=31, embedding=8, hidden=16)
    tokens = torch.randint(0, 31, (3, 12), generator=torch.Generator().manual_seed(1))
    whole = net(tokens)
    assert whole.shape == (3, 12, 31)
    first, state = net.unroll(tokens[:, :5])
    second, _ = net.unroll(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    whole.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_tied_language_model_shares_one_matrix() -> None:
    net = nets.lstm_language_model(num_classes=31, embedding=16, hidden=16, tied=True)
    assert net.output.weight is net.embedding.weight


def test_text_network_takes_short_sentences_and_keeps_padding_at_zero() -> None:
    net = nets.build("text_wcnn", seed=0, vocabulary=50, num_classes=5, embedding=8, channels=4)
    assert net(torch.tensor([[3, 1], [7, 0]])).shape == (2, 5)
    net(torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(1))).square().mean().backward()
    assert net.embedding.weight.grad[0].abs().sum() == 0
    assert net.embedding.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["lenet5", "small_cnn", "resnet20", "text_wcnn", "lstm_language_model"])
def test_same_seed_same_weights_and_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (nets.build(name, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_parameter_free_shortcut_halves_the_image_and_pads_channels() -> None:
    from drivetrain.nets.resnet import SubsampleAndPad

    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    y = SubsampleAndPad(2, 2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert y[:, [0, 3]].abs().sum() == 0


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: nets.build("resnet5"), "resnet50"),
        (lambda: nets.build("lenet5", image_size=30), "28 or 32"),
        (lambda: nets.build("lenet5", classes=3), "classes"),
        (lambda: nets.build("lstm_language_model", tied=True, embedding=3), "embedding = hidden"),
    ],
)
def test_bad_input_names_what_would_be_right(call, word: str) -> None:
    with pytest.raises(DrivetrainError, match=word):
        call()


def test_bad_depth_and_stem_are_refused() -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        nets.CifarResNet(21)
    with pytest.raises(ValueError, match="stem"):
        nets.DenseNet(12, (2, 2), stem="mnist")
