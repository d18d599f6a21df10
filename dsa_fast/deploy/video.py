"""Reads the frames of a video file with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dsa_fast.extras import require
from dsa_fast.files import check_regular, utf8_name
from dsa_fast.image import check_pixels

__all__ = ["count_frames", "read_frames"]

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,flv,asf,ogg,ivf,mjpeg"
# Only the file itself: a playlist would open other files or addresses.
_ONLY = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


def read_frames(path: Path, is_wanted: Callable[[int], bool]) -> Iterator[tuple[int, Tensor]]:
    """Reads frames in display order. A rotation that the file asks players for is not applied.

    Args:
        path: the video.
        is_wanted: tells for each frame number, from 0, whether it is converted.

    Yields:
        The number of each wanted frame, and its picture, uint8 [3, H, W], RGB.

    Raises:
        ValueError: PyAV is not installed, or the file is no video, is damaged or has too many pixels (see
            `dsa_fast.image.open_image`). Frames before the damage were yielded.
    """
    av = require("av")
    try:
        check_regular(path)
        with utf8_name(path.absolute()) as name, av.open(f"file:{name}", container_options=_ONLY) as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("there is no decoder for its codec")
            check_pixels(stream.width, stream.height)
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if is_wanted(number):
                    check_pixels(frame.width, frame.height)  # a stream may change it
                    yield number, torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise ValueError(f"{path} must be a video: {error}") from error


def count_frames(path: Path) -> int:
    """Returns the number of frames that a video says it has, or 0 if it does not say.

    Raises:
        ValueError: as in `read_frames`.
    """
    av = require("av")
    try:
        check_regular(path)
        with utf8_name(path.absolute()) as name, av.open(f"file:{name}", container_options=_ONLY) as container:
            return int(container.streams.video[0].frames)
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise ValueError(f"{path} must be a video: {error}") from error
