"""A gigapixel slide with a known answer: clean boards side by side, and here and there one with defects.

    python recipes/files/pyramid.py --data-dir ../DeepPCB --out board.tif                # 40,000 x 40,000 pixels
    python recipes/files/pyramid.py --data-dir ../DeepPCB --out board.tif --side 4000    # 100 times fewer
    python recipes/files/pyramid.py --smoke --out board.tif --side 1500                  # of made-up boards

Half a minute for the first, a GB, on two busy cores; six seconds for the second, 11 MB. Leaves --out, a TIFF with tiles of
256x256 in JPEG and all levels down to one tile, which OpenSlide and GDAL read, and beside it `board.json` with the boxes of the
boards that have defects. The file is written as it is composed: the first takes 200 MB of memory, beside TensorFlow. It needs
pyvips, which writes such files in parts: `pip install -e ".[recipes,pyramids]"`.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from arguments import at_least, in_one_line, seed
from images.boards import defective

PIECES, QUALITY = 16, 90


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file")
    parser.add_argument("--data-dir", type=Path, help="folder with DeepPCB's PCBData")
    parser.add_argument("--side", type=at_least(1), default=40_000, help="pixels (default: %(default)s)")
    parser.add_argument("--objects", type=at_least(0), default=1, help="boards with defects (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--smoke", action="store_true", help="take made-up boards")
    args = parser.parse_args()
    with in_one_line():
        clean, with_defects = boards(args.data_dir, args.smoke)
        boxes = make_pyramid(args.out, args.side, clean, with_defects[: args.objects], args.seed)
        args.out.with_suffix(".json").write_text(json.dumps({"side": args.side, "boxes": boxes.tolist()}) + "\n")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.0f} MB, boxes {boxes.tolist()}")


def make_pyramid(
    path: str | os.PathLike, side: int, pieces: Sequence[np.ndarray], objects: Sequence[np.ndarray], seed: int = 0
) -> np.ndarray:
    """Writes a mosaic of pieces at random, with each object pasted once, into some piece anywhere.

    Args:
        path: Of the TIFF.
        side: Integer, its height and width.
        pieces: Arrays `[block, block, channels]` of uint8, all of one shape.
        objects: Arrays `[height, width, channels]` of uint8, no larger than a piece.
        seed: Integer, of the mosaic and the places.

    Returns:
        Integer array `[n, 4]`, the box of each object: y1, x1, y2, x2.
    """
    rng, block = np.random.default_rng(seed), len(pieces[0])
    whole, count = side // block, -(-side // block)
    if len(objects) > whole**2:
        raise ValueError(f"{side}x{side} pixels have {whole**2} whole pieces of {block}x{block}; got {len(objects)} objects.")
    chosen = rng.integers(len(pieces), size=(count, count))
    pasted, boxes = {}, np.zeros((len(objects), 4), int)
    for n, place in enumerate(rng.choice(whole**2, len(objects), replace=False)):
        row, column, size = *divmod(int(place), whole), np.array(objects[n].shape[:2])
        y, x = rng.integers(block - size + 1)
        piece = pieces[chosen[row, column]].copy()
        piece[y : y + size[0], x : x + size[1]] = objects[n]
        pasted[row, column] = piece
        corner = np.array([row * block + y, column * block + x])
        boxes[n] = [*corner, *(corner + size)]
    write(path, side, lambda row, column: pasted.get((row, column), pieces[chosen[row, column]]))
    return boxes


def write(path: str | os.PathLike, side: int, tile_of: Callable[[int, int], np.ndarray]) -> None:
    """Writes a pyramid of blocks that are joined as they are written.

    Args:
        path: Of the TIFF.
        side: Integer, its height and width; the last blocks are cut.
        tile_of: Gives the block `[block, block, channels]` of uint8 in a row and a column of the mosaic. A block that occurs
            again should be the same array, which is kept once.
    """
    import pyvips  # Only writing needs it.

    blocks = {}

    def kept(block):
        """The array with its image, which shares its memory."""
        return blocks.setdefault(id(block), (block, pyvips.Image.new_from_array(block)))[1]

    count = -(-side // len(tile_of(0, 0)))
    images = [kept(tile_of(row, column)) for row in range(count) for column in range(count)]
    joined = pyvips.Image.arrayjoin(images, across=count)
    options = {"tile": True, "tile_width": 256, "tile_height": 256, "compression": "jpeg", "Q": QUALITY, "bigtiff": True}
    joined.crop(0, 0, side, side).tiffsave(str(path), pyramid=True, **options)


def boards(data_dir: Path | None, smoke: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of DeepPCB's boards to test on, RGB, `PIECES` without defects and as many with."""
    test = defective(data_dir, smoke).test
    return tuple([np.repeat(test[n], 3, axis=-1) for n in np.flatnonzero(test.labels == label)[:PIECES]] for label in (0, 1))


if __name__ == "__main__":
    main()
