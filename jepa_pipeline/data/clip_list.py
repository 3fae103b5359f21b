"""All samples of a data set as an encoder is evaluated on them: each once, as its clips or its image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.data.clips import eval_clips
from jepa_pipeline.data.collate import as_labels, picture
from jepa_pipeline.data.decode import DecodeError
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
        self.ends = np.cumsum(shards.counts)

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """The batch of these samples.

        Raises:
            SampleError: a sample cannot be read or decoded.
        """
        which = np.searchsorted(self.ends, numbers, side="right")
        members = np.asarray(numbers) - (self.ends - self.shards.counts)[which]
        count, size = self.segments * self.views, self.image_size
        samples, clips = [], np.empty((count, len(numbers), 3, self.frames, size, size), np.uint8)
        for row, (shard, member) in enumerate(zip(which.tolist(), members.tolist(), strict=True)):
            sample = self.shards.read(shard, member)
            try:
                opened = picture(self.shards, sample)
                taken = eval_clips(opened, self.frames, self.config, self.segments, self.views, size)
            except DecodeError as error:
                raise self.shards.error(shard, sample.key, str(error)) from error
            clips[:, row] = taken.reshape(count, *taken.shape[2:])
            samples.append(sample)
        return Batch(list(torch.from_numpy(clips)), [], as_labels(samples), [sample.key for sample in samples], [])
