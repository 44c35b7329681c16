"""Data settings: which files or tables to read, and what to do with texts that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from gfn_ray.config.checks import absolute_path
from gfn_ray.config.sections import Section

TooLong = Literal["refuse", "skip"]


class FileConfig(Section):
    """Settings of every task that reads files."""

    path: Path | None = Field(None, description="File to read; default: the embedded data.")
    test_path: Path | None = Field(
        None,
        description="File of test rows in the same format. No test split is taken from the other "
        "data then, and rows found in both files are left out of the test.",
    )
    columns: tuple[str, ...] | None = Field(
        None,
        description="Columns or keys to rename, each as FOUND=EXPECTED: sentence=text reads the "
        "data's 'sentence' as 'text'.",
    )
    too_long: TooLong = Field(
        "refuse",
        description="What to do with a text that is too long for the model or its prompt: refuse "
        "the run, or skip the text and report how many were skipped.",
    )

    @property
    def renamed(self) -> dict[str, str]:
        """The expected name of each renamed column, by its name in the data."""
        pairs = (pair.rpartition("=") for pair in self.columns or ())
        return {found.strip(): expected.strip() for found, _, expected in pairs}

    @property
    def has_test(self) -> bool:
        """Whether the test rows come from a source of their own."""
        return self.test_path is not None

    @field_validator("path", "test_path")
    @classmethod
    def _from_anywhere(cls, path: Path | None) -> Path | None:
        """Makes the path absolute: --resume, --config and serving read the settings again."""
        return absolute_path(path)

    @model_validator(mode="after")
    def _each_name_once(self) -> FileConfig:
        names = self.renamed
        given = ", ".join(self.columns or ())
        if not all(found and expected for found, expected in names.items()):
            raise ValueError(
                f"data.columns takes pairs FOUND=EXPECTED, such as sentence=text; got {given}"
            )
        if not len(set(names)) == len(set(names.values())) == len(self.columns or ()):
            raise ValueError(f"data.columns names a column twice; got {given}; leave one out")
        return self

    @model_validator(mode="after")
    def _two_files(self) -> FileConfig:
        if self.path is not None and self.path == self.test_path:
            raise ValueError(
                f"data.path and data.test_path are both {self.path}; leave the second out to "
                "take a test split from the first"
            )
        return self


class DataConfig(FileConfig):
    """Settings of the tasks that read stories."""

    path: Path | None = Field(
        None,
        description="CSV with ROCStories or Story Cloze columns, separated by commas, semicolons "
        "or tabs; default: the embedded stories.",
    )
    hub: str | None = Field(
        None, description="Hugging Face dataset id with the ROCStories columns, instead of a file."
    )
    hub_config: str | None = Field(
        None, description="Configuration of that dataset, if it has several."
    )
    split: str | None = Field(
        None,
        description="Split of it to read, such as train or train[:90%]; default: all but "
        "data.test_split.",
    )
    test_split: str | None = Field(
        None, description="Split of it with the test rows, as data.test_path."
    )

    @property
    def has_test(self) -> bool:
        return self.test_path is not None or self.test_split is not None

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.path is not None and self.hub is not None:
            raise ValueError(
                f"data.path ({self.path}) and data.hub ({self.hub}) name two sources; give one"
            )
        if self.test_path is not None and self.test_split is not None:
            raise ValueError(
                f"data.test_path ({self.test_path}) and data.test_split ({self.test_split}) name "
                "two test sets; give one"
            )
        for name in ("hub_config", "split", "test_split"):
            if self.hub is None and getattr(self, name) is not None:
                raise ValueError(
                    f"data.{name} ({getattr(self, name)}) needs a dataset of the hub, and data.hub "
                    "is none; set data.hub, or leave this out"
                )
        if self.split is not None and self.split == self.test_split:
            raise ValueError(f"data.split and data.test_split are both {self.split}; change one")
        return self
