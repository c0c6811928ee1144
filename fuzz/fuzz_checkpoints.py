"""Bytes from strangers: what is read as a `.pth` file becomes plain values and tensors, or one line that refuses it.

    python fuzz/fuzz_checkpoints.py SECONDS

It is led by atheris (pip install atheris). A file that fails is left as `crash-...`; what is found is kept as a test in
`tests/converters`.
"""

import sys
import tempfile
from pathlib import Path

import atheris

from dekr_tf.errors import InputError

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

with atheris.instrument_imports(include=["converters.checkpoint_file"]):
    from pth_writer import archive, pickled, storage, tensor

    from converters.checkpoint_file import Tensor, read_checkpoint


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.pth"

        def check(data):
            # Checksums would stop almost every change to an archive, so what is no archive is also put into one.
            for content in (data, archive(data, {"0": bytes(24)})):
                path.write_bytes(content)
                try:
                    found = read_checkpoint(path)
                except InputError as error:
                    assert "\n" not in str(error)
                    continue
                values = found.values() if isinstance(found, dict) else [found]
                for value in values:
                    if isinstance(value, Tensor):
                        assert value.numpy().size <= len(content)

        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        seeds = [path.read_bytes() for path in (ROOT / "tests/goldens").glob("checkpoint_*.pth")]
        for index, seed in enumerate([*seeds, pickled({"a": tensor(storage()), "b": (1, "text", True)})]):
            check(seed)
            (corpus / str(index)).write_bytes(seed)
        options = [f"-max_total_time={sys.argv[1]}", "-max_len=8192", "-rss_limit_mb=4096", "-verbosity=1"]
        atheris.Setup([sys.argv[0], str(corpus), *options], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
