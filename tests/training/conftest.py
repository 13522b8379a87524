from tests.helpers.tiny_training import cached_slices, tiny_recipe

__all__ = ["cached_slices", "tiny_recipe"]
