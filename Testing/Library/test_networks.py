"""Generator and discriminator: shapes, ranges, what an unlabelled case means, no checkerboard at the start."""

from __future__ import annotations

import pytest
import torch

from GEDGANLib.networks.blocks import convolution
from GEDGANLib.networks.discriminator import Discriminator, SeparateHeads
from GEDGANLib.networks.generator import Generator


@pytest.mark.parametrize("shape", [(16, 24), (8, 16, 24)])
@pytest.mark.parametrize(
    ("image_channels", "label_count", "class_count"), [(1, 0, 0), (1, 2, 0), (3, 5, 4), (8, 32, 2)]
)
def test_shapes_and_ranges(shape, image_channels, label_count, class_count):
    torch.manual_seed(0)
    dims = len(shape)
    generator = Generator(dims, shape, image_channels, label_count, (16, 8), 12, class_count)
    field_channels = 5
    discriminator = Discriminator(dims, shape, image_channels, label_count, field_channels, (8, 16), class_count)
    classes = torch.eye(class_count)[torch.zeros(2, dtype=torch.long)] if class_count else None
    case = generator(torch.randn(2, 12), classes)
    channels = image_channels + (label_count + 1 if label_count else 0)
    assert case.shape == (2, channels, *shape)
    assert case[:, :image_channels].abs().max() <= 1
    if label_count:
        torch.testing.assert_close(case[:, image_channels:].sum(1), torch.ones(2, *shape))
    field = torch.randn(2, field_channels, *(side // 2 for side in shape))
    logits = discriminator(case, field, class_weights=classes)
    assert logits.shape == (2,)
    assert torch.isfinite(logits).all()


def test_sides_must_fit_the_stride():
    with pytest.raises(ValueError, match="multiple of 4"):
        Generator(3, (8, 10, 8), 1, 0, (8, 8), 4)
    with pytest.raises(ValueError, match="multiple of 4"):
        Discriminator(3, (8, 10, 8), 1, 0, 0, (8, 8))


def test_an_unlabelled_case_is_judged_by_its_image_alone():
    torch.manual_seed(0)
    discriminator = Discriminator(3, (8, 8, 8), 1, 2, 0, (8,))
    case = torch.randn(3, 4, 8, 8, 8)
    other_labels = torch.cat([case[:, :1], torch.randn(3, 3, 8, 8, 8)], 1)
    labelled = torch.tensor([True, False, False])
    first, second = discriminator(case, labelled=labelled), discriminator(other_labels, labelled=labelled)
    assert first[0] != second[0]
    torch.testing.assert_close(first[1:], second[1:])


def test_features_are_reachable_by_name():
    generator = Generator(3, (8, 8, 8), 1, 0, (16, 8), 4)
    maps = generator.features(torch.randn(1, 4))
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        "stage0": (16, 2, 2, 2),
        "stage1": (8, 4, 4, 4),
        "full": (4, 8, 8, 8),
    }
    assert torch.isfinite(maps["full"]).all()


def test_no_checkerboard_before_training():
    """Energy at the Nyquist frequency of the output is small: upsampling itself makes no pattern."""
    torch.manual_seed(0)
    image = Generator(3, (32, 32, 32), 1, 0, (16, 16, 8), 8)(torch.randn(4, 8))[:, 0]
    spectrum = torch.fft.fftn(image - image.mean((1, 2, 3), keepdim=True), dim=(1, 2, 3)).abs().square()
    assert spectrum[:, 16].mean() < 0.05 * spectrum[:, 1:8].mean()


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    generator = Generator(3, (8, 8, 8), 1, 2, (16, 8), 4)
    discriminator = Discriminator(3, (8, 8, 8), 1, 2, 3, (8, 16))
    for network in (generator, discriminator):
        for block in network.stages.modules():
            if hasattr(block, "second"):  # residual branches start at 0; move them off it to see through
                torch.nn.init.normal_(block.second.weight, std=0.1)
    discriminator(generator(torch.randn(2, 4)), torch.randn(2, 3, 4, 4, 4)).sum().backward()
    for network in (generator, discriminator):
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                assert (weight.grad is not None and weight.grad.abs().sum() > 0) or name == "logit.bias", name
    assert [name for name, weight in generator.named_parameters() if not weight.requires_grad] == ["mean_case"]


@pytest.mark.parametrize(("sees_image", "sees_field"), [(True, False), (False, True), (True, True)])
def test_separate_heads_see_what_they_should(sees_image, sees_field):
    torch.manual_seed(0)
    image_head = Discriminator(3, (8, 8, 8), 1, 0, 3, (8, 16))
    pair_head = Discriminator(3, (8, 8, 8), int(sees_image), 2, 3 * sees_field, (8, 16))
    heads = SeparateHeads(image_head, pair_head)
    case, field = torch.randn(3, 4, 8, 8, 8, requires_grad=True), torch.randn(3, 3, 4, 4, 4, requires_grad=True)
    logits = heads(case, field, labelled=torch.tensor([1.0, 0.0, 1.0]))
    assert logits.shape == (3, 2)
    assert logits[1, 1] == 0

    def sees(logit: torch.Tensor) -> tuple[bool, bool, bool]:
        gradients = torch.autograd.grad(logit.sum(), (case, field), retain_graph=True, allow_unused=True)
        of_case, of_field = (torch.zeros(1, 4) if g is None else g for g in gradients)
        return bool(of_case[:, :1].any()), bool(of_case[:, 1:].any()), bool(of_field.any())

    assert sees(logits[:, 0]) == (True, False, True)
    assert sees(logits[:, 1]) == (sees_image, True, sees_field)


def test_thick_slices_keep_their_axis_until_the_others_are_as_coarse():
    torch.manual_seed(0)
    strides, shape = ((2, 2, 1), (2, 2, 1), (2, 2, 2)), (32, 24, 6)
    generator = Generator(3, shape, 1, 2, (16, 8, 8), 4, strides=strides)
    discriminator = Discriminator(3, shape, 1, 2, 5, (8, 8, 16), strides=strides, field_stage=1)
    maps = generator.features(torch.randn(2, 4))
    assert [tuple(each.shape[2:]) for each in maps.values()] == [(4, 3, 3), (8, 6, 6), (16, 12, 6), (32, 24, 6)]
    case, field = generator(torch.randn(2, 4)), torch.randn(2, 5, 8, 6, 6)
    assert case.shape == (2, 4, *shape)
    assert discriminator(case, field).shape == (2,)
    assert discriminator.realness(case, field).shape == (2, 4, 3, 3)
    discriminator(case, field).sum().backward()
    assert all(weight.grad is not None for weight in generator.parameters() if weight.requires_grad)
    with pytest.raises(ValueError, match="multiple of 8 x 8 x 2"):
        Generator(3, (32, 24, 5), 1, 0, (16, 8, 8), 4, strides=strides)
    with pytest.raises(ValueError, match="must have 2 entries of 3"):
        Generator(3, shape, 1, 0, (8, 8), 4, strides=strides)


@pytest.mark.parametrize("options", [{"kernel_size": 3, "padding": 1}, {"kernel_size": 1}])
def test_one_small_volume_is_convolved_like_several(options):
    layer = convolution(3, 4, 6, **options)
    several = torch.randn(2, 4, 8, 8, 8)
    alone = several[:1].clone().requires_grad_()

    def first_and_second_gradients(convolve):
        made = convolve(alone)
        (gradient,) = torch.autograd.grad(made.square().sum(), alone, create_graph=True)
        return made, gradient, *torch.autograd.grad(gradient.square().mean(), (alone, layer.weight))

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        with torch.no_grad():
            made = layer(several[:1])
        if options["kernel_size"] > 1:
            layer(alone).sum().backward()
    torch.testing.assert_close(made, layer(several)[:1])
    if torch.backends.mkldnn.is_available():
        assert not any("slow" in event.key for event in seen.key_averages())
    plain = first_and_second_gradients(lambda x: torch.nn.Conv3d.forward(layer, x))
    for found, expected in zip(first_and_second_gradients(layer), plain):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    traced = torch.jit.trace(layer, several[:1])  # has to run on a GPU as well
    assert "mkldnn" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(several), layer(several))
