"""Pipelines and packs of units in one file each, written by the community and reviewed before they ship.

Each is loaded by its name: `DiffusionPipeline.from_pretrained(weights, custom_pipeline="one_step_unet")`, and a pack is
inserted by it: `pipe.with_units("emphasis", after="prompt_embeds")`. How to add one: `docs/sharing.md`.
"""
