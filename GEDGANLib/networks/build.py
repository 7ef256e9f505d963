"""Networks, and the field that they meet in, from a plan."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ..structure.agreement import AgreementField
from ..structure.field import FIELDS, StructureField
from ..structure.whitening import Whitening
from .article import ArticleDiscriminator, ArticleGenerator
from .blocks import channels_last, strides_of
from .discriminator import Discriminator, SeparateHeads
from .generator import Generator
from .judges import Judges
from .parts import FACTOR, FINE_STAGES, PartsDiscriminator, PartsGenerator
from .refiner import Refiner
from .repainting import RepaintingGenerator
from .statistical import StatisticalGenerator


def field_channels(plan) -> int:
    """Channels of what the discriminator of a plan sees beside the case; 0 for nothing."""
    if plan.method == "article" or plan.field.kind == "none":
        return 0
    return FIELDS[plan.field.kind].CHANNELS[plan.spatial_dims] * len(plan.channels)


def agreement_channels(plan) -> int:
    """Channels of the agreement of image and labels; 0 for none. They follow those of the field."""
    return len(plan.channels) * len(plan.labels) if plan.field.agreement and plan.method != "article" else 0


def build_agreement(plan, tau: float) -> AgreementField | None:
    """Agreement of image and labels as a function of the case; None for none. Parameters as :func:`build_field`."""
    if not agreement_channels(plan):
        return None
    return AgreementField(
        tuple(plan.grid.spacing), plan.field.sigma, plan.field.rho, tau, len(plan.channels), plan.field_stride
    )


def build_whitening(plan) -> Whitening | None:
    """What filters the image that a plan's judge sees; None where it sees it as it is."""
    return Whitening(plan.statistical.gains, plan.grid.shape) if plan.repaints and plan.statistical.gains else None


def seen(
    case: Tensor,
    field: StructureField | None,
    agreement: AgreementField | None,
    image_channels: int,
    whitening: Whitening | None = None,
) -> tuple[Tensor, ...]:
    """What the discriminator sees of a case: it and, in one tensor, its field and the agreement of its labels.

    :param case: (N, image_channels + label_count + 1, *grid).
    :param field: from :func:`build_field`.
    :param agreement: from :func:`build_agreement`.
    :param whitening: from :func:`build_whitening`.
    """
    beside = [] if field is None else [field(case[:, :image_channels])]
    if agreement is not None:
        beside.append(agreement(case))
    if whitening is not None:
        case = torch.cat([whitening(case[:, :image_channels]), case[:, image_channels:]], 1)
    return (case, torch.cat(beside, 1)) if beside else (case,)


def build_field(plan, tau: float) -> StructureField | None:
    """What the discriminator sees beside the case, as a function of its image; None for nothing.

    :param tau: see :func:`GEDGANLib.structure.field.median_trace`.
    """
    if not field_channels(plan):
        return None
    return FIELDS[plan.field.kind](
        spacing=tuple(plan.grid.spacing),
        sigma=plan.field.sigma,
        rho=plan.field.rho,
        tau=tau,
        stride=plan.field_stride,
    )


def seen_alone(plan, image: Tensor, tau: float) -> tuple[Tensor, ...]:
    """What a discriminator that was trained with ``plan`` sees of images alone, without labels.

    :param image: (N, channels, *grid); where the plan trains on parts, means over blocks of it are seen.
    :param tau: of its field, see :func:`build_field`.
    """
    plan = plan_of_critic(plan)
    image = functional.adaptive_avg_pool3d(image, tuple(plan.grid.shape))
    labels = image.new_zeros(len(image), len(plan.labels) + 1 if plan.labels else 0, *plan.grid.shape)
    fields = build_field(plan, tau), build_agreement(plan, tau)
    return seen(torch.cat([image, labels], 1), *fields, len(plan.channels), build_whitening(plan))


def coarse_plan(plan):
    """The plan of the coarse whole, where a plan trains on parts: its grid, field and discriminator."""
    grid = plan.grid
    spacing = [FACTOR * side for side in grid.spacing]
    # The centre of the first coarse voxel is that of the fine voxels it stands for.
    moved = [
        first + sum(row[axis] * (FACTOR - 1) / 2 * grid.spacing[axis] for axis in range(len(spacing)))
        for first, row in zip(grid.origin, grid.directions)
    ]
    coarse = replace(
        grid, shape=tuple(side // FACTOR for side in grid.shape), spacing=tuple(spacing), origin=tuple(moved)
    )
    widths = plan.networks.discriminator_widths[1 : len(plan.networks.discriminator_widths) - FINE_STAGES]
    return replace(
        plan,
        grid=coarse,
        field=replace(plan.field, sigma=FACTOR * plan.field.sigma, rho=FACTOR * plan.field.rho),
        networks=replace(plan.networks, discriminator_widths=widths, generator_widths=widths[::-1]),
        training=replace(plan.training, volume="whole", part=()),
    )


def plan_of_critic(plan):
    """The plan of what judges whole cases: the coarse one where a plan trains on parts, else the plan itself."""
    return coarse_plan(plan) if plan.training.volume == "parts" else plan


def part_plan(plan):
    """The plan of a fine part, as :func:`coarse_plan` of the whole; its discriminator has one head."""
    stages = 0
    while stages < len(plan.networks.discriminator_widths) and all(
        side % 2 ** (stages + 1) == 0 and side >> (stages + 1) >= 2 for side in plan.training.part
    ):
        stages += 1
    widths = plan.networks.discriminator_widths[:stages]
    return replace(
        plan,
        grid=replace(plan.grid, shape=tuple(plan.training.part)),
        networks=replace(plan.networks, discriminator_widths=widths, generator_widths=widths[::-1], heads="shared"),
        training=replace(plan.training, volume="whole", part=()),
    )


def _parts_discriminator(plan) -> PartsDiscriminator:
    whole, fine = build_discriminator(coarse_plan(plan)), part_plan(plan)
    return PartsDiscriminator(whole, Discriminator(**_discriminator_options(fine, plan.spatial_dims)), plan.grid.shape)


def _statistical(plan) -> StatisticalGenerator:
    grids = plan.statistical
    return StatisticalGenerator(
        plan.grid.shape, plan.extent, len(plan.channels), len(plan.labels), grids.modes or plan.networks.latent_size,
        grids.template, grids.velocity, grids.look, grids.labels, len(plan.classes),
    )  # fmt: skip


def build_refiner(plan) -> Refiner:
    """What learns of the second generator, with freshly drawn weights."""
    widths, rest = plan.networks.generator_widths[::-1], plan.networks.latent_size - plan.statistical.modes
    return Refiner(
        plan.spatial_dims, plan.grid.shape, plan.extent, len(plan.channels), len(plan.labels), widths, rest,
        len(plan.classes), refiner_strides(plan), plan.statistical.relative,
    )  # fmt: skip


def refiner_strides(plan) -> list[tuple[int, ...]]:
    """How each level of a plan's refiner divides the grid of the one before."""
    levels = len(plan.networks.generator_widths) - 1
    return strides_of(levels, plan.spatial_dims, plan.networks.strides[:levels])


def build_generator(
    plan,
) -> Generator | PartsGenerator | ArticleGenerator | StatisticalGenerator | RepaintingGenerator:
    """Generator with freshly drawn weights for a :class:`GEDGANLib.planning.plan.Plan`; one that is to be given what
    it knows, where the plan is of a statistical model."""
    if plan.method == "modes":
        return _statistical(plan)
    if plan.repaints:
        refiner = build_refiner(plan).to(memory_format=channels_last(plan.spatial_dims))
        return RepaintingGenerator(_statistical(plan), refiner)
    if plan.method == "article":
        return ArticleGenerator(
            plan.spatial_dims, plan.grid.shape, len(plan.channels), len(plan.labels), plan.networks.latent_size
        ).to(memory_format=channels_last(plan.spatial_dims))
    options = {
        "spatial_dims": plan.spatial_dims,
        "shape": plan.grid.shape,
        "image_channels": len(plan.channels),
        "label_count": len(plan.labels),
        "widths": plan.networks.generator_widths,
        "latent_size": plan.networks.latent_size,
        "class_count": len(plan.classes),
        "blocks": plan.networks.blocks,
        "strides": plan.networks.strides,
    }
    if plan.training.volume == "parts":
        del options["strides"]  # along all axes alike, as the plan has it where it trains on parts
        generator = PartsGenerator(part=plan.training.part, **options)
    else:
        generator = Generator(**options)
    return generator.to(memory_format=channels_last(plan.spatial_dims))


def build_discriminator(
    plan,
) -> Discriminator | SeparateHeads | Judges | PartsDiscriminator | ArticleDiscriminator:
    """Discriminator with freshly drawn weights for a :class:`GEDGANLib.planning.plan.Plan`."""
    if plan.training.volume == "parts":
        return _parts_discriminator(plan).to(memory_format=channels_last(plan.spatial_dims))
    if plan.method == "article":
        return ArticleDiscriminator(plan.spatial_dims, plan.grid.shape, len(plan.channels), len(plan.labels)).to(
            memory_format=channels_last(plan.spatial_dims)
        )
    options = _discriminator_options(plan)
    if plan.repaints:
        plain = {**options, "label_count": 0, "agreement_channels": 0}
        of_field = Discriminator(**{**plain, "image_channels": 0}) if plain["field_channels"] else None
        judges = Judges(Discriminator(**{**plain, "field_channels": 0}), of_field)
        return judges.to(memory_format=channels_last(plan.spatial_dims))
    if plan.networks.heads == "separate":
        unseen = {"image": {"field_channels": 0}, "field": {"image_channels": 0}, "both": {}}[plan.networks.pair_sees]
        image_head = Discriminator(**{**options, "label_count": 0, "agreement_channels": 0})
        discriminator = SeparateHeads(image_head, Discriminator(**{**options, **unseen}))
    else:
        discriminator = Discriminator(**options)
    return discriminator.to(memory_format=channels_last(plan.spatial_dims))


def _discriminator_options(plan, position_channels: int = 0) -> dict:
    return {
        "spatial_dims": plan.spatial_dims,
        "shape": plan.grid.shape,
        "image_channels": len(plan.channels) + position_channels,
        "label_count": len(plan.labels),
        "field_channels": field_channels(plan),
        "widths": plan.networks.discriminator_widths,
        "agreement_channels": agreement_channels(plan),
        "field_stage": plan.field.stage,
        "blocks": plan.networks.blocks,
        "class_count": len(plan.classes),
        "strides": plan.networks.strides,
    }
