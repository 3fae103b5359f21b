"""All samples of a data set as an encoder is evaluated on them: each once, as its clips or its image."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.data.clips import eval_clips
from jepa_pipeline.data.dataset import as_labels, read_as
from jepa_pipeline.data.shards import Shards


class ClipList(Dataset[Batch]):
    """All videos of a data set by number, as evenly spaced clips (segments) in several crops (views); images as still clips.

    A batch's views are those of the first segment, then those of the second, and so on: segments * views tensors "B C T H W"
    of uint8.
    """

    def __init__(self, shards: Shards, frames: int, config: ClipConfig, segments: int, views: int, image_size: int) -> None:
        self.shards = shards
        self.frames = frames
        self.config = config
        self.segments = segments
        self.views = views
        self.image_size = image_size

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """The batch of these samples.

        Raises:
            SampleError: a sample cannot be read or decoded.
        """
        count, size = self.segments * self.views, self.image_size
        taken = partial(
            eval_clips, frames=self.frames, config=self.config, segments=self.segments, views=self.views, image_size=size
        )
        samples, clips = [], np.empty((count, len(numbers), 3, self.frames, size, size), np.uint8)
        for row, place in enumerate(self.shards.locate(numbers)):
            sample, found = read_as(taken, self.shards, *place)
            clips[:, row] = found.reshape(count, *found.shape[2:])
            samples.append(sample)
        return Batch(list(torch.from_numpy(clips)), [], as_labels(samples), [sample.key for sample in samples], [])
