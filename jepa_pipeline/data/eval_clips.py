"""The data set of video evaluation: every sample once, as evenly spaced clips."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.data.clips import extract_eval_clips
from jepa_pipeline.data.dataset import read_decoded, stack_labels
from jepa_pipeline.data.shards import Shards


class EvalClips(Dataset[Batch]):
    """All videos of a data set by index, as evenly spaced clips (segments) in several crops (views); images as still clips.

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

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of these samples.

        Raises:
            SampleError: a sample cannot be read or decoded.
        """
        count, size = self.segments * self.views, self.image_size
        extract = partial(
            extract_eval_clips,
            frames=self.frames,
            config=self.config,
            segments=self.segments,
            views=self.views,
            image_size=size,
        )
        samples, clips = [], np.empty((count, len(indices), 3, self.frames, size, size), np.uint8)
        for row, position in enumerate(self.shards.locate(indices)):
            sample, extracted = read_decoded(extract, self.shards, *position)
            clips[:, row] = extracted.reshape(count, *extracted.shape[2:])
            samples.append(sample)
        return Batch(list(torch.from_numpy(clips)), [], stack_labels(samples), [sample.key for sample in samples], [])
