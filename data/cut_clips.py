"""Cut the shipped clips from their originals: python data/cut_clips.py FOLDER_WITH_THE_ORIGINALS (needs ffmpeg)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# name: (original, from, to in seconds, filters, x264 quality: lower is better and larger)
CUTS = {
    "bigbuckbunny": ("bigbuckbunny.mp4", 0, 5.28, "scale=640:360", 27),
    "bikes": ("bikes.mp4", 0, 10, "scale=640:272", 26),
    "concert": ("concert.mp4", 40, 46.6, "crop=176:98:0:23", 21),
    "dog": ("dog.mp4", 0, 1.6, "scale=640:360", 18),
    "dunes": ("sintel.mp4", 36.25, 40.4, "crop=854:362:0:59,scale=640:272", 21),
    "pedestrians": ("pedestrians.avi", 50, 58, "scale=480:360", 26),
    "robot_cooking": ("robot_cooking.mp4", 9, 18.5, "scale=640:360,setsar=1", 28),
    "sintel": ("sintel.mp4", 22.5, 31.6, "crop=854:362:0:59,scale=640:272", 28),
}


def cut(originals: Path, name: str) -> None:
    """Re-encode one stretch without its sound; frame times are kept as they were, uneven ones included."""
    original, start, end, filters, quality = CUTS[name]
    options = (
        f"-t {end - start:.3f} -an -sn -dn -map_metadata -1 -vf {filters},setpts=PTS-STARTPTS -fps_mode passthrough"
    )
    encoder = (
        f"-enc_time_base -1 -c:v libx264 -preset veryslow -crf {quality} -g 50 -pix_fmt yuv420p -movflags +faststart"
    )
    command = ["ffmpeg", "-v", "error", "-y", "-ss", str(start), "-i", str(originals / original)]
    target = Path(__file__).parent / "clips" / f"{name}.mp4"
    subprocess.run([*command, *options.split(), *encoder.split(), "-fflags", "+bitexact", str(target)], check=True)


if __name__ == "__main__":
    for name in CUTS:
        cut(Path(sys.argv[1]), name)
