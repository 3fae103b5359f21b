"""The data sets of a run: shards, or the user's own."""

from jepa_pipeline.config.data import WINDOW_SHARDS, DataConfig, SourceConfig
from jepa_pipeline.data.custom import open_custom
from jepa_pipeline.data.manifest import Manifest, load_manifest
from jepa_pipeline.data.shards import Shards


def open_source(source: SourceConfig, data: DataConfig) -> Shards:
    """Return the samples of a data set.

    Raises:
        UserError: there are none.
    """
    if source.class_path is not None:
        return open_custom(source, data.pixel_format)
    return Shards(source.path, 2 * WINDOW_SHARDS, data.cache, data.damage.max_megapixels * 1e6, data.pixel_format)


def source_manifest(source: SourceConfig, data: DataConfig) -> Manifest:
    """Return the manifest of a data set after checking that its shards are there; an own one has one too.

    Raises:
        UserError: it is incomplete.
    """
    return load_manifest(source.path) if source.class_path is None else open_custom(source, data.pixel_format).manifest
