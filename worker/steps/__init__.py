"""The steps of a recipe, one file each: typed values in, typed values out."""
