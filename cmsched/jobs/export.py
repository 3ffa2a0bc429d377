"""A store as files that other programs read: npz, PNGs, parquet, webdataset."""

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_choice
from .store import Store

__all__ = ["FORMATS", "export", "pixels"]


def export(store: Store, out: str | Path, to: str = "npz") -> Path:
    """Write the samples of a finished job in another format.

    What is written appears at its path when it is whole.

    Args:
        store: the job.
        out: the file, or the folder for "png".
        to: "npz": the arrays of the store by their names; "png": a file a sample, named by its
            number, in folders of their labels if they have any; "parquet": a row a sample, in a row
            group a chunk; "webdataset": a tar of PNGs, and the label as .cls.

    Raises:
        ValueError: an unknown format, samples that are no images, or a job that is not done.
        FileExistsError: something is there.
        ImportError: the format's package is not installed.
    """
    check_choice("to", to, FORMATS)
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already; give another path, or remove it")
    if missing := store.missing():
        raise ValueError(
            f"{len(missing)} of {store.manifest.chunks} chunks of {store.path} are yet to be made;"
            " run the job again first"
        )
    with whole(out) as part:
        FORMATS[to](store, part)
    return out


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Give a path beside, which becomes the path when all went well."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(out)
    finally:
        if part.is_dir():
            for path in sorted(part.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            part.rmdir()
        else:
            part.unlink(missing_ok=True)


def to_npz(store: Store, out: Path) -> None:
    """Write one .npz, array by array and chunk by chunk."""
    import zipfile

    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, (shape, dtype) in store.manifest.arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                    "fortran_order": False,
                    "shape": (len(store), *shape),
                }
                np.lib.format.write_array_header_1_0(file, header)
                for _, arrays in store:
                    file.write(np.ascontiguousarray(arrays[name]).tobytes())


def to_png(store: Store, out: Path) -> None:
    """Write a PNG a sample."""
    for number, image, label in images(store):
        folder = out if label is None else out / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:08d}.png").write_bytes(image)


def to_webdataset(store: Store, out: Path) -> None:
    """Write a tar whose files of one sample have its number as their stem."""
    with tarfile.open(out, "w") as archive:

        def add(name: str, content: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        for number, image, label in images(store):
            add(f"{number:08d}.png", image)
            if label is not None:
                add(f"{number:08d}.cls", str(label).encode())


def to_parquet(store: Store, out: Path) -> None:
    """Write a table with a column an array, of lists where a sample has more than one number."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("parquet is written by pyarrow: pip install pyarrow") from None
    writer = None
    try:
        for numbers, arrays in store:
            columns: dict[str, Any] = {"number": np.asarray(numbers)}
            for name, array in arrays.items():
                columns[name] = array if array.ndim == 1 else list(array.reshape(len(array), -1))
            table = pyarrow.table(columns)
            writer = writer or pyarrow.parquet.ParquetWriter(out, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


FORMATS: Mapping[str, Callable[[Store, Path], None]] = {
    "npz": to_npz,
    "png": to_png,
    "parquet": to_parquet,
    "webdataset": to_webdataset,
}


def images(store: Store) -> Iterator[tuple[int, bytes, int | None]]:
    """Yield the number, the PNG and the label of every sample."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("PNGs are written by Pillow: pip install pillow") from None
    for numbers, arrays in store:
        labels = arrays.get("label")
        for k, number in enumerate(numbers):
            file = io.BytesIO()
            Image.fromarray(pixels(arrays["samples"][k])).save(file, "PNG")
            yield number, file.getvalue(), None if labels is None else int(labels[k])


def pixels(sample: np.ndarray) -> np.ndarray:
    """Return a sample (C, H, W) or (H, W, C), of uint8 or in [-1, 1], as an image.

    Raises:
        ValueError: its shape is not that of an image of one, three or four channels.
    """
    channels = (1, 3, 4)
    if sample.ndim == 3 and sample.shape[0] in channels:
        sample = np.moveaxis(sample, 0, -1)
    if sample.ndim not in (2, 3) or (sample.ndim == 3 and sample.shape[-1] not in channels):
        raise ValueError(
            f"a sample of shape {sample.shape} is no image of 1, 3 or 4 channels; decode latents by"
            " the sampler's finish="
        )
    if sample.ndim == 3 and sample.shape[-1] == 1:
        sample = sample[..., 0]
    if sample.dtype != np.uint8:
        levels = np.rint(255 * np.clip((sample.astype(np.float64) + 1) / 2, 0, 1))
        sample = levels.astype(np.uint8)
    return np.ascontiguousarray(sample)
