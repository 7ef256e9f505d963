"""Networks from a plan."""

from __future__ import annotations

from .article import ArticleDiscriminator, ArticleGenerator
from .blocks import channels_last
from .discriminator import Discriminator
from .generator import Generator

FIELD_CHANNELS = {2: 4, 3: 13}
"""Channels of the eigen-directional field for one image channel."""


def build_generator(plan) -> Generator | ArticleGenerator:
    """Generator with freshly drawn weights for a :class:`GEDGANLib.plan.Plan`."""
    if plan.method == "article":
        return ArticleGenerator(
            plan.spatial_dims, plan.grid.shape, len(plan.channels), len(plan.labels), plan.networks.latent_size
        ).to(memory_format=channels_last(plan.spatial_dims))
    generator = Generator(
        spatial_dims=plan.spatial_dims,
        shape=plan.grid.shape,
        image_channels=len(plan.channels),
        label_count=len(plan.labels),
        widths=plan.networks.generator_widths,
        latent_size=plan.networks.latent_size,
        blocks=plan.networks.blocks,
    )
    return generator.to(memory_format=channels_last(plan.spatial_dims))


def build_discriminator(plan) -> Discriminator | ArticleDiscriminator:
    """Discriminator with freshly drawn weights for a :class:`GEDGANLib.plan.Plan`."""
    if plan.method == "article":
        return ArticleDiscriminator(plan.spatial_dims, plan.grid.shape, len(plan.channels), len(plan.labels)).to(
            memory_format=channels_last(plan.spatial_dims)
        )
    discriminator = Discriminator(
        spatial_dims=plan.spatial_dims,
        shape=plan.grid.shape,
        image_channels=len(plan.channels),
        label_count=len(plan.labels),
        field_channels=FIELD_CHANNELS[plan.spatial_dims] * len(plan.channels),
        widths=plan.networks.discriminator_widths,
        blocks=plan.networks.blocks,
    )
    return discriminator.to(memory_format=channels_last(plan.spatial_dims))
