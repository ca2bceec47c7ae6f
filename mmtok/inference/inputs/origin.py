"""Where many samples come from: folders of files, tables and token stores."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from mmtok.errors import MmtokError, suggest
from mmtok.inference.inputs.folders import read_folder
from mmtok.inference.inputs.given import Inputs, check_name
from mmtok.inference.inputs.masks import mask_columns
from mmtok.inference.inputs.stored import open_store
from mmtok.inference.inputs.tables import TABLES, read_table
from mmtok.inference.inputs.words import Words
from mmtok.inference.loaded import Loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where samples come from.

    Attributes:
      path: Folder of files, CSV or JSONL table, or token store.
      fields: Only these raw fields; empty means all there are.
      split: Of a token store.
    """

    path: str
    fields: tuple[str, ...] = ()
    split: str = ""

    def open(self, model: Loaded, *, asked: Collection[str] = ()) -> Inputs:
        """Finds the samples; reads the table, but none of the files.

        A folder holds sub-folders named after raw fields, in which files of one sample have the same name but for the
        ending; or the files of one field: that of `fields`, or else pictures are those of the only field in colour and
        `.txt` those of the only text. Of `x.npy` and `x.png`, as a depth is written, the first is read. A table has
        columns named after raw fields, with values or with files relative to the table, and may have a column `name`.
        Masks of the pictures of `rgb` are in the sub-folder or column `rgb.mask`.

        Args:
          model: Says which raw fields there are.
          asked: Modalities that are to be made; what is made from the same raw field is not taken from a token store,
            unless `fields` names it.

        Raises:
          MmtokError: there is no such place or no sample in it, a field or column that the model does not have, two
            samples of one name, a damaged table; or `fields` or `split` do not fit.
          MismatchError: a token store was made with other tokenizers.
        """
        path = Path(self.path)
        if not path.exists():
            raise MmtokError(f"{path}: no such file or folder")
        masks = mask_columns(model)
        shows = {**model.fields, **dict.fromkeys(masks, "mask")}
        model.check_fields(field for field in self.fields if field not in masks)
        if (path / "mmtok.json").exists():
            return open_store(self.path, model, split=self.split, fields=self.fields, asked=asked)
        if self.split:
            raise MmtokError(f"{path}: no token store, only that has splits ('{self.split}'); leave it out")
        if path.is_dir():
            samples = read_folder(path, shows, self.fields)
        elif path.suffix.lower() in TABLES:
            samples = read_table(path, shows, self.fields)
        else:
            raise MmtokError(f"{path}: a folder, a table ({', '.join(TABLES)}) or a token store was expected")
        if not samples:
            raise MmtokError(f"{path}: holds no samples")
        for name in samples:
            check_name(name, where=path)
        found = dict.fromkeys(field for words in samples.values() for field in words)
        for field in self.fields:
            if field not in found:
                raise MmtokError(f"{path}: no sample has the field '{field}'{suggest(field, found)}")
        return Words(tuple(samples), tuple(samples.values()), shows, masks)
